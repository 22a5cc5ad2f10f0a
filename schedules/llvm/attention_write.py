"""The first phase of attention: normalize and rotate queries and keys, write keys and values into the cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm.script import tirx as T

from . import simd
from .attention_tile import Batch, Cache, Heads
from .math import keep, lane_sum
from .simd import LANES, Expr

Source = Callable[[Expr, int], Expr]
"""(first feature, lanes) -> that many features of one head of one token."""


@dataclass(frozen=True)
class Rotation:
    """What turns a projected query or key into one that may be compared: an RMSNorm over the head if any, and the
    angles.
    """

    cos: Any
    sin: Any
    q_norm: Any | None
    k_norm: Any | None
    eps: float | None


def write_keys_values(
    heads: Heads, cache: Cache, batch: Batch, token: Expr, head: Expr, key: Source, value: Source
) -> None:
    """Emit the store of one token's key (any source) and value of one head into its place in the cache."""
    position = keep(batch.position(token))
    page, block = cache.place(batch.slot(token), keep(T.truncdiv(position, T.int64(LANES))))
    lane = keep(T.truncmod(position, T.int64(LANES)))
    dtype = str(cache.keys.dtype)
    column = simd.scratch((LANES,), dtype)
    with T.serial(0, heads.vectors) as v:
        simd.store(column, T.cast(key(v * LANES, LANES), f"{dtype}x{LANES}"), 0)
        for d in range(LANES):
            T.buffer_store(cache.keys, column[d], [page, head, block, v * LANES + d, lane])
        simd.store(
            cache.values, T.cast(value(v * LANES, LANES), f"{dtype}x{LANES}"), page, head, block, lane, v * LANES
        )


def rotate(heads: Heads, rotation: Rotation, norm: Any | None, token: Expr, source: Source, to: Any) -> None:
    """Emit to[0 : head_dim] = rotary(norm(source)); `to` is a buffer f32[head_dim]."""
    dim, half = heads.head_dim, heads.head_dim // 2
    width = LANES if half % LANES == 0 else LANES // 2  # head_dim is a multiple of 16
    factor: Expr = None
    if norm is not None:
        squares = simd.scratch((LANES,), "float32")
        simd.store(squares, simd.splat(0.0), 0)
        with T.serial(0, heads.vectors) as v:
            x = keep(source(v * LANES, LANES))
            simd.store(squares, simd.fma(x, x, simd.load(squares, 0)), 0)
        mean = lane_sum(simd.load(squares, 0)) * T.float32(1 / dim)
        factor = keep(simd.splat(T.float32(1) / T.sqrt(mean + T.float32(rotation.eps)), width))

    def piece(start: Expr) -> Expr:
        x = source(start, width)
        return keep(x if norm is None else x * factor * simd.load(norm, start, count=width))

    with T.serial(0, half // width) as v:
        low, high = v * width, v * width + half
        x, y = piece(low), piece(high)
        cos_low, sin_low = (simd.load(table, token, low, count=width) for table in (rotation.cos, rotation.sin))
        cos_high, sin_high = (simd.load(table, token, high, count=width) for table in (rotation.cos, rotation.sin))
        simd.store(to, simd.fma(x, cos_low, simd.splat(0.0, width) - y * sin_low), low, count=width)
        simd.store(to, simd.fma(y, cos_high, x * sin_high), high, count=width)
