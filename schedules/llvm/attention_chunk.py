"""Attention of some query rows over one chunk of the cache: scores, online softmax and the weighted sum of the values.

Rows are queries (tokens times the heads of a group) that share one slot and one key/value head. Every operation of a
row happens in the same order whatever tile it is in: blocks start at multiples of the block size, and positions that
a row may not see add exact zeros. So a token's result does not depend on how it was batched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from . import simd
from .attention_tile import REGISTERS, AttentionTile, Batch, Cache, Heads, Partial, ceildiv, minimum, workspace
from .math import exp2, keep, lane_max, lane_sum
from .simd import LANES, Expr

LOWEST = -1e30
"""A maximum before any score: finite, so that a difference with it is never NaN."""


@dataclass(frozen=True)
class Rows:
    """Consecutive query rows of one key/value head, and the registers they go through `step` at a time."""

    queries: Any  # f32[kv_heads, rows of all tokens, head_dim], already times scale and log2(e)
    head: Expr
    first: Expr
    count: Expr
    step: int
    capacity: int  # most rows, a multiple of step
    slot: Expr
    position: Callable[[Expr], Expr]  # of a row

    @property
    def steps(self) -> Expr:
        return ceildiv(self.count, self.step)


@dataclass(frozen=True)
class Scratch:
    """One task's buffers."""

    scores: Any  # [row, position in block]: scores, then weights
    rescale: Any  # [row, 16]: the same factor in all lanes
    page: Any
    block: Any

    @staticmethod
    def allocate(capacity: int, tile: AttentionTile) -> Scratch:
        def floats(*shape: int) -> Any:
            return workspace(*shape)

        places = [workspace(tile.block // LANES, dtype="int64") for _ in range(2)]
        return Scratch(floats(capacity, tile.block), floats(capacity, LANES), *places)


def attend_chunk(
    heads: Heads,
    tile: AttentionTile,
    cache: Cache,
    rows: Rows,
    scratch: Scratch,
    start: Expr,
    end: Expr,
    result: Partial,
) -> None:
    """Emit the attention of `rows` over positions start <= t < end into `result`; `start`: a multiple of the chunk."""
    clear(heads, rows.steps * rows.step, result)
    with T.serial(0, ceildiv(end - start, tile.block)) as block:
        first = keep(start + block * tile.block)
        length = keep(minimum(T.int64(tile.block), end - first))
        _find_pages(tile, cache, rows.slot, first, end, scratch)
        _scores(heads, tile, cache, rows, scratch, length)
        _softmax(tile, rows, scratch, first, result)
        _values(heads, cache, rows, scratch, length, result)


def _find_pages(tile: AttentionTile, cache: Cache, slot: Expr, first: Expr, end: Expr, scratch: Scratch) -> None:
    """The place of each 16 positions of the block; beyond the end that of the last ones, for the page table ends
    there.
    """
    for vector in range(tile.block // LANES):
        nominal = T.truncdiv(first, T.int64(LANES)) + vector
        page, block = cache.place(slot, keep(minimum(nominal, T.truncdiv(end - 1, T.int64(LANES)))))
        T.buffer_store(scratch.page, page, [vector])
        T.buffer_store(scratch.block, block, [vector])


def _scores(heads: Heads, tile: AttentionTile, cache: Cache, rows: Rows, scratch: Scratch, length: Expr) -> None:
    """scores[row, t] = sum over d of query[row, d] * key[d, t], 16 positions a vector."""
    width = next(w for w in (4, 2, 1) if w * rows.step <= REGISTERS and tile.block % (w * LANES) == 0)
    with T.serial(0, rows.steps) as step, T.serial(0, ceildiv(length, width * LANES)) as column:
        places = [
            (keep(scratch.page[column * width + v]), keep(scratch.block[column * width + v])) for v in range(width)
        ]
        sums = [[simd.scratch((LANES,), "float32") for _ in range(width)] for _ in range(rows.step)]
        for row_sums in sums:
            for accumulator in row_sums:
                simd.store(accumulator, simd.splat(0.0), 0)
        with T.serial(0, heads.head_dim) as d:
            keys = [
                keep(T.cast(simd.load(cache.keys, page, rows.head, block, d, 0), "float32x16"))
                for page, block in places
            ]
            for r, row_sums in enumerate(sums):
                query = keep(simd.splat(rows.queries[rows.head, rows.first + step * rows.step + r, d]))
                for key, accumulator in zip(keys, row_sums, strict=True):
                    simd.store(accumulator, simd.fma(query, key, simd.load(accumulator, 0)), 0)
        for r, row_sums in enumerate(sums):
            for v, accumulator in enumerate(row_sums):
                simd.store(
                    scratch.scores, simd.load(accumulator, 0), step * rows.step + r, (column * width + v) * LANES
                )


def _softmax(tile: AttentionTile, rows: Rows, scratch: Scratch, first: Expr, result: Partial) -> None:
    """Scores to weights 2**(score - maximum so far); the rows' sums and the factors for what came before."""
    vectors = range(tile.block // LANES)
    lane = keep(T.ramp(T.int32(0), 1, LANES))
    with T.serial(0, rows.count) as row:
        visible = keep(simd.splat(T.cast(rows.position(row) - first, "int32")))
        scores = []
        for v in vectors:
            score = simd.load(scratch.scores, row, v * LANES)
            seen = lane + simd.splat(T.int32(v * LANES)) <= visible
            scores.append(keep(tirx.Select(seen, score, simd.splat(float("-inf")))))
        before = keep(result.top[(*result.at, row)])
        top = keep(simd.maximum(before, lane_max(_tree(scores, lambda a, b: keep(simd.maximum(a, b))))))
        rescale = keep(exp2(simd.splat(before - top)))
        weights = [keep(exp2(score - simd.splat(top))) for score in scores]
        for v, weight in enumerate(weights):
            simd.store(scratch.scores, weight, row, v * LANES)
        total = simd.fma(simd.load(result.total, *result.at, row, 0), rescale, _tree(weights, lambda a, b: a + b))
        simd.store(result.total, total, *result.at, row, 0)
        T.buffer_store(result.top, top, [*result.at, row])
        simd.store(scratch.rescale, rescale, row, 0)


def _tree(values: list[Expr], combine: Callable[[Expr, Expr], Expr]) -> Expr:
    """All values combined in pairs, so that the chain is short."""
    while len(values) > 1:
        pairs = [combine(a, b) for a, b in zip(values[::2], values[1::2], strict=False)]
        values = pairs + values[len(pairs) * 2 :]
    return values[0]


def _values(heads: Heads, cache: Cache, rows: Rows, scratch: Scratch, length: Expr, result: Partial) -> None:
    """out[row] = out[row] * rescale[row] + sum over t of weight[row, t] * value[t]."""
    width = min(heads.vectors, REGISTERS // rows.step)
    panels, rest = divmod(heads.vectors, width)
    with T.serial(0, rows.steps) as step:
        with T.serial(0, panels) as panel:
            _value_panel(heads, cache, rows, scratch, length, result, step, panel * (width * LANES), width)
        if rest:
            _value_panel(heads, cache, rows, scratch, length, result, step, T.int32(panels * width * LANES), rest)


def _value_panel(
    heads: Heads,
    cache: Cache,
    rows: Rows,
    scratch: Scratch,
    length: Expr,
    result: Partial,
    step: Expr,
    column: Expr,
    width: int,
) -> None:
    sums = [[simd.scratch((LANES,), "float32") for _ in range(width)] for _ in range(rows.step)]
    for r, row_sums in enumerate(sums):
        rescale = keep(simd.load(scratch.rescale, step * rows.step + r, 0))
        for v, accumulator in enumerate(row_sums):
            before = simd.load(result.out, *result.at, step * rows.step + r, column + v * LANES)
            simd.store(accumulator, before * rescale, 0)
    with T.serial(0, ceildiv(length, LANES)) as vector:
        page, block = keep(scratch.page[vector]), keep(scratch.block[vector])
        with T.serial(0, minimum(T.int64(LANES), length - vector * LANES)) as t:
            values = [
                keep(T.cast(simd.load(cache.values, page, rows.head, block, t, column + v * LANES), "float32x16"))
                for v in range(width)
            ]
            for r, row_sums in enumerate(sums):
                weight = keep(simd.splat(scratch.scores[step * rows.step + r, vector * LANES + t]))
                for value, accumulator in zip(values, row_sums, strict=True):
                    simd.store(accumulator, simd.fma(weight, value, simd.load(accumulator, 0)), 0)
    for r, row_sums in enumerate(sums):
        for v, accumulator in enumerate(row_sums):
            simd.store(result.out, simd.load(accumulator, 0), *result.at, step * rows.step + r, column + v * LANES)


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


def finish(heads: Heads, batch: Batch, rows: Rows, result: Partial, out: Any) -> None:
    """Emit the division by the sum of the weights and the store to out f32[n, heads * head_dim]."""
    with T.serial(0, rows.count) as row:
        inverse = keep(simd.splat(T.float32(1) / lane_sum(simd.load(result.total, *result.at, row, 0))))
        token = keep(T.truncdiv(rows.first + row, T.int64(heads.group)))
        head = keep(rows.head * heads.group + T.truncmod(rows.first + row, T.int64(heads.group)))
        with T.serial(0, heads.vectors) as v:
            value = simd.load(result.out, *result.at, row, v * LANES) * inverse
            simd.store(out, value, token, head * heads.head_dim + v * LANES)
