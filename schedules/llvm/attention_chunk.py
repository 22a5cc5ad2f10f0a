"""Attention of some query rows over one chunk of the cache: scores, online softmax and the weighted sum of the values.

Rows are queries (tokens times the heads of a group) that share one slot and one key/value head. Every operation of a
row happens in the same order whatever tile it is in: blocks start at multiples of the block size, and positions that
a row may not see add exact zeros. So a token's result does not depend on how it was batched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import tirx
from tvm.script import tirx as T

from . import simd
from .attention_tile import REGISTERS, AttentionTile, Batch, Cache, Heads, Partial, ceildiv, minimum, workspace
from .math import exp2, keep, lane_max, lane_sum
from .simd import BYTES, LANES, Expr

LOWEST = -1e30
"""A maximum before any score: finite, so that a difference with it is never NaN."""
UNSEEN = 2 * LOWEST
"""The score of a position that a row may not see: its weight is 0 whatever the maximum."""


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
    streams: bool  # so few rows that memory is the limit: prefetch

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
        more = keep(tirx.Select(first + tile.block < end, T.int64(tile.block // LANES), T.int64(0)))
        _find_pages(tile, cache, rows.slot, first, end, scratch)
        _scores(heads, tile, cache, rows, scratch, length)
        _softmax(tile, rows, scratch, first, result)
        _values(heads, cache, rows, scratch, length, more, result)


def _find_pages(tile: AttentionTile, cache: Cache, slot: Expr, first: Expr, end: Expr, scratch: Scratch) -> None:
    """The place of each 16 positions of the block; beyond the end the last one's, for the page table ends there."""
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
        unroll = 2 if rows.streams else 1
        with T.serial(0, heads.head_dim // unroll) as d_outer:
            if rows.streams:
                for page, block in places:
                    _prefetch(cache.values, page, rows.head, block, d_outer * (unroll * LANES), unroll * LANES)
            for d in range(unroll):
                at = d_outer * unroll + d
                keys = [_load_float32(cache.keys, page, rows.head, block, at, 0) for page, block in places]
                for r, row_sums in enumerate(sums):
                    query = keep(simd.splat(rows.queries[rows.head, rows.first + step * rows.step + r, at]))
                    _accumulate(row_sums, query, keys)
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
            scores.append(keep(tirx.Select(seen, score, simd.splat(UNSEEN))))
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


def _values(
    heads: Heads, cache: Cache, rows: Rows, scratch: Scratch, length: Expr, more: Expr, result: Partial
) -> None:
    """out[row] = out[row] * rescale[row] + sum over t of weight[row, t] * value[t]."""
    panels = -(-heads.vectors * rows.step // REGISTERS)
    width = -(-heads.vectors // panels)
    with T.serial(0, rows.steps) as step:
        for first in range(0, heads.vectors, width):
            columns = [v * LANES for v in range(first, min(first + width, heads.vectors))]
            ahead = more if rows.streams and first == 0 else None
            _value_panel(heads, cache, rows, scratch, length, ahead, result, step, columns)


def _value_panel(
    heads: Heads,
    cache: Cache,
    rows: Rows,
    scratch: Scratch,
    length: Expr,
    ahead: Expr | None,
    result: Partial,
    step: Expr,
    columns: list[int],
) -> None:
    """The features from each of `columns` on; meanwhile prefetch the keys `ahead` blocks of 16 positions further on."""
    sums = [[simd.scratch((LANES,), "float32") for _ in columns] for _ in range(rows.step)]
    for r, row_sums in enumerate(sums):
        rescale = keep(simd.load(scratch.rescale, step * rows.step + r, 0))
        for column, accumulator in zip(columns, row_sums, strict=True):
            before = simd.load(result.out, *result.at, step * rows.step + r, column)
            simd.store(accumulator, before * rescale, 0)
    with T.serial(0, ceildiv(length, LANES)) as vector:
        page, block = keep(scratch.page[vector]), keep(scratch.block[vector])
        with T.serial(0, minimum(T.int64(LANES), length - vector * LANES)) as t:
            if ahead is not None:
                _prefetch(cache.keys, page, rows.head, block + ahead, t * heads.head_dim, heads.head_dim)
            values = [_load_float32(cache.values, page, rows.head, block, t, column) for column in columns]
            for r, row_sums in enumerate(sums):
                weight = keep(simd.splat(scratch.scores[step * rows.step + r, vector * LANES + t]))
                _accumulate(row_sums, weight, values)
    for r, row_sums in enumerate(sums):
        for column, accumulator in zip(columns, row_sums, strict=True):
            simd.store(result.out, simd.load(accumulator, 0), *result.at, step * rows.step + r, column)


def _load_float32(cache: Any, *indices: Expr) -> Expr:
    return keep(T.cast(simd.load(cache, *indices), "float32x16"))


def _accumulate(sums: list[Any], scalar: Expr, vectors: list[Expr]) -> None:
    for vector, accumulator in zip(vectors, sums, strict=True):
        simd.store(accumulator, simd.fma(scalar, vector, simd.load(accumulator, 0)), 0)


def _prefetch(cache: Any, page: Expr, head: Expr, block: Expr, first: Expr, count: int) -> None:
    """`count` elements of a block from its element `first` on.

    Keys are fetched while values are used and the other way round: each phase reads too little for the hardware's
    prefetcher to gain speed. Each line is asked for twice: measured on one thread with 28 layers of 1,024 positions,
    17 GB/s without prefetch, 20 with one request a line, 25 with two, of 33 that plain reading reaches.
    """
    half_line = BYTES // 2 * 8 // tvm.DataType(str(cache.dtype)).bits
    for start in range(0, count, half_line):
        simd.prefetch(cache, page, head, block, 0, first + start)


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
    """Emit the division by the sum of the weights and the store in out f32[n, heads, head_dim] (or flat)."""
    with T.serial(0, rows.count) as row:
        inverse = keep(simd.splat(T.float32(1) / lane_sum(simd.load(result.total, *result.at, row, 0))))
        token = keep(T.truncdiv(rows.first + row, T.int64(heads.group)))
        head = keep(rows.head * heads.group + T.truncmod(rows.first + row, T.int64(heads.group)))
        with T.serial(0, heads.vectors) as v:
            value = simd.load(result.out, *result.at, row, v * LANES) * inverse
            column = v * LANES
            at = (head, column) if len(out.shape) == 3 else (head * heads.head_dim + column,)
            simd.store(out, value, token, *at)
