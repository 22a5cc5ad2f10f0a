"""Results of attention over a part of the context: cleared, merged, and divided at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm.script import tirx as T

from . import simd
from .attention_tile import Heads
from .math import exp2, lane_sum
from .simd import LANES, Expr, keep, workspace

LOWEST = -1e30
"""A maximum before any score: finite, so that a difference with it is never NaN."""


@dataclass(frozen=True)
class Partial:
    """Softmax results that are not divided yet, by row: sum(p * v), the maximum they refer to, and sum(p) in 16
    parts.
    """

    out: Any
    top: Any
    total: Any
    at: tuple[Expr, ...] = ()
    """Leading indices of the three buffers."""

    @staticmethod
    def allocate(*lead: Expr, rows: Expr, head_dim: int) -> tuple[Any, Any, Any]:
        """Emit the three buffers."""
        shapes = ((*lead, rows, head_dim), (*lead, rows), (*lead, rows, LANES))
        out, top, total = (workspace(*shape) for shape in shapes)
        return out, top, total


def clear(heads: Heads, rows: Expr, result: Partial) -> None:
    """Emit the result over no positions at all."""
    with T.serial(0, rows) as row:
        T.buffer_store(result.top, T.float32(LOWEST), [*result.at, row])
        simd.store(result.total, simd.splat(0.0), *result.at, row, 0)
        with T.serial(0, heads.vectors) as v:
            simd.store(result.out, simd.splat(0.0), *result.at, row, v * LANES)


def merge(heads: Heads, rows: Expr, into: Partial, part: Partial) -> None:
    """Emit the union of two results over different positions; exact where one of them is over none."""
    with T.serial(0, rows) as row:
        old, new = keep(into.top[(*into.at, row)]), keep(part.top[(*part.at, row)])
        top = keep(simd.maximum(old, new))
        kept = keep(exp2(simd.splat(old - top)))
        take = keep(exp2(simd.splat(new - top)))
        added = keep(simd.load(part.total, *part.at, row, 0) * take)
        simd.store(into.total, simd.fma(simd.load(into.total, *into.at, row, 0), kept, added), *into.at, row, 0)
        T.buffer_store(into.top, top, [*into.at, row])
        with T.serial(0, heads.vectors) as v:
            added = keep(simd.load(part.out, *part.at, row, v * LANES) * take)
            merged = simd.fma(simd.load(into.out, *into.at, row, v * LANES), kept, added)
            simd.store(into.out, merged, *into.at, row, v * LANES)


def finish(heads: Heads, token: Expr, kv_head: Expr, rows: Expr, result: Partial, out: Any) -> None:
    """Emit the division by the sum of the weights and the store in out f32[n, heads, head_dim] (or flat); the rows are
    the heads of the group of each token from `token` on.
    """
    with T.serial(0, rows) as row:
        inverse = keep(simd.splat(T.float32(1) / lane_sum(simd.load(result.total, *result.at, row, 0))))
        at_token = keep(token + T.truncdiv(row, T.int64(heads.group)))
        head = keep(kv_head * heads.group + T.truncmod(row, T.int64(heads.group)))
        with T.serial(0, heads.vectors) as v:
            value = simd.load(result.out, *result.at, row, v * LANES) * inverse
            column = v * LANES
            at = (head, column) if len(out.shape) == 3 else (head * heads.head_dim + column,)
            simd.store(out, value, at_token, *at)
