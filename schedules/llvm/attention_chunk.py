"""Attention of one token's heads over one chunk of the cache: scores, online softmax and the weighted sum of values.

The rows are the heads of a group, which read each key and value once. Blocks start at multiples of the block size, and
so a chunk's result is the same bits whoever computes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from . import simd
from .attention_cache import Cache, Place
from .attention_partial import Partial, clear
from .attention_softmax import softmax_row
from .attention_tile import AttentionTile, Heads, ceildiv, minimum
from .math import exp2
from .simd import BYTES, LANES, Expr, keep, workspace


@dataclass(frozen=True)
class TokenHeads:
    """The query heads of one token that share a key/value head, and the registers they go through `step` at a time."""

    queries: Any  # f32[capacity, head_dim], already times scale and log2(e)
    head: Expr
    slot: Expr
    count: int
    step: int

    @property
    def steps(self) -> int:
        return -(-self.count // self.step)

    @property
    def capacity(self) -> int:
        return self.steps * self.step


@dataclass(frozen=True)
class Scratch:
    """One task's buffers."""

    scores: Any  # [row, position in block]: scores, then weights
    rescale: Any  # [row, 16]: the same factor in all lanes
    page: Any
    block: Any

    def place(self, head: Expr, vector: Expr) -> Place:
        """Where the 16 positions number `vector` of the block lie. Emits bindings."""
        return Place(keep(self.page[vector]), head, keep(self.block[vector]))

    @staticmethod
    def allocate(capacity: int, tile: AttentionTile) -> Scratch:
        places = [workspace(tile.block // LANES, dtype="int64") for _ in range(2)]
        return Scratch(workspace(capacity, tile.block), workspace(capacity, LANES), *places)


def attend_chunk(
    heads: Heads,
    tile: AttentionTile,
    cache: Cache,
    rows: TokenHeads,
    scratch: Scratch,
    start: Expr,
    end: Expr,
    result: Partial,
) -> None:
    """Emit the attention of `rows` over positions start <= t < end into `result`; `start`: a multiple of the chunk."""
    clear(heads, T.int64(rows.capacity), result)
    with T.serial(0, ceildiv(end - start, tile.block)) as block:
        first = keep(start + block * tile.block)
        length = keep(minimum(T.int64(tile.block), end - first))
        more = keep(tirx.Select(first + tile.block < end, T.int64(tile.block // LANES), T.int64(0)))
        _find_pages(tile, cache, rows.slot, first, end, scratch)
        _scores(heads, tile, cache, rows, scratch, length)
        with T.serial(0, rows.count) as row:
            store = partial(_store_weights, cache, scratch, rows.head, row)
            softmax_row(scratch.scores, row, tile.block, length, length, result, scratch.rescale, exp2, store)
        _values(heads, tile, cache, rows, scratch, length, more, result)


def _store_weights(cache: Cache, scratch: Scratch, head: Expr, row: Expr, first: Expr, vector: Expr) -> None:
    """Weights, times the scales of the values that they will be multiplied with."""
    if cache.scaled:
        vector = vector * cache.value_scales(scratch.place(head, T.truncdiv(first, T.int64(LANES))))
    simd.store(scratch.scores, vector, row, first)


def _find_pages(tile: AttentionTile, cache: Cache, slot: Expr, first: Expr, end: Expr, scratch: Scratch) -> None:
    """The place of each 16 positions of the block; beyond the end the last one's, for the page table ends there."""
    for vector in range(tile.block // LANES):
        nominal = T.truncdiv(first, T.int64(LANES)) + vector
        page, block = cache.place(slot, keep(minimum(nominal, T.truncdiv(end - 1, T.int64(LANES)))))
        T.buffer_store(scratch.page, page, [vector])
        T.buffer_store(scratch.block, block, [vector])


def _scores(heads: Heads, tile: AttentionTile, cache: Cache, rows: TokenHeads, scratch: Scratch, length: Expr) -> None:
    """scores[row, t] = sum over d of query[row, d] * key[d, t], 16 positions a vector."""
    width = next(w for w in (4, 2, 1) if w * rows.step <= tile.registers and tile.block % (w * LANES) == 0)
    with T.serial(0, rows.steps) as step, T.serial(0, ceildiv(length, width * LANES)) as column:
        places = [scratch.place(rows.head, column * width + v) for v in range(width)]
        sums = [[simd.scratch((LANES,), "float32") for _ in range(width)] for _ in range(rows.step)]
        for row_sums in sums:
            for accumulator in row_sums:
                simd.store(accumulator, simd.splat(0.0), 0)
        unroll = 2
        with T.serial(0, heads.head_dim // unroll) as d_outer:
            for place in places:
                _prefetch(cache, cache.values, place, d_outer * (unroll * LANES), unroll * LANES)
            for d in range(unroll):
                at = d_outer * unroll + d
                keys = [cache.key(place, at) for place in places]
                for r, row_sums in enumerate(sums):
                    _accumulate(row_sums, keep(simd.splat(rows.queries[step * rows.step + r, at])), keys)
        for v, place in enumerate(places):
            scales = keep(cache.key_scales(place)) if cache.scaled else None
            for r, row_sums in enumerate(sums):
                score = simd.load(row_sums[v], 0)
                score = score if scales is None else score * scales
                simd.store(scratch.scores, score, step * rows.step + r, (column * width + v) * LANES)


def _values(
    heads: Heads,
    tile: AttentionTile,
    cache: Cache,
    rows: TokenHeads,
    scratch: Scratch,
    length: Expr,
    more: Expr,
    result: Partial,
) -> None:
    """out[row] = out[row] * rescale[row] + sum over t of weight[row, t] * value[t]."""
    panels = -(-heads.vectors * rows.step // tile.registers)
    width = -(-heads.vectors // panels)
    with T.serial(0, rows.steps) as step:
        for first in range(0, heads.vectors, width):
            columns = [v * LANES for v in range(first, min(first + width, heads.vectors))]
            ahead = more if first == 0 else None
            _value_panel(heads, cache, rows, scratch, length, ahead, result, step, columns)


def _value_panel(
    heads: Heads,
    cache: Cache,
    rows: TokenHeads,
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
        place = scratch.place(rows.head, vector)
        with T.serial(0, minimum(T.int64(LANES), length - vector * LANES)) as t:
            if ahead is not None:
                further = Place(place.page, place.head, place.block + ahead)
                _prefetch(cache, cache.keys, further, t * heads.head_dim, heads.head_dim)
            values = [cache.value(place, t, column) for column in columns]
            for r, row_sums in enumerate(sums):
                weight = keep(simd.splat(scratch.scores[step * rows.step + r, vector * LANES + t]))
                _accumulate(row_sums, weight, values)
    for r, row_sums in enumerate(sums):
        for column, accumulator in zip(columns, row_sums, strict=True):
            simd.store(result.out, simd.load(accumulator, 0), *result.at, step * rows.step + r, column)


def _accumulate(sums: list[Any], scalar: Expr, vectors: list[Expr]) -> None:
    for vector, accumulator in zip(vectors, sums, strict=True):
        simd.store(accumulator, simd.fma(scalar, vector, simd.load(accumulator, 0)), 0)


def _prefetch(cache: Cache, buffer: Any, place: Place, first: Expr, count: int) -> None:
    """`count` elements of a block from its element `first` on.

    Keys are fetched while values are used and the other way round: each phase reads too little for the hardware's
    prefetcher to gain speed. Each line is asked for twice: measured on one thread with 28 layers of 1,024 positions,
    17 GB/s without prefetch, 20 with one request a line, 25 with two, of 33 that plain reading reaches.
    """
    cache.prefetch(buffer, place, first, count, BYTES // 2)
