"""Attention of a tile: several tokens of one slot, with all heads of a group, over their whole context.

The rows of a tile (tokens times heads) share each block of keys and values, which is laid out once for them in the
numbers that they multiply in: float32, or pairs of bfloat16 for `vdpbf16ps`. Then two matrix products of the same form,
with the softmax between: rows that lie row by row, whose numbers are broadcast, times panels of 16 columns.

    scores[row, t]    sum over d of query[row, d] * key[d, t]         columns are positions
    out[row, d]       sum over t of weight[row, t] * value[t, d]      columns are features

A step of rows that does not see a panel of positions at all skips it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from . import bfloat, simd
from .attention_cache import Cache, Place
from .attention_input import Inputs
from .attention_partial import Partial, clear, finish, merge
from .attention_softmax import softmax_row
from .attention_tile import AttentionTile, Batch, Heads, ceildiv, minimum
from .math import exp2, exp2_rough
from .simd import LANES, Expr, keep, workspace


@dataclass(frozen=True)
class Products:
    """How numbers lie in the lanes of a product, and how the lanes are multiplied."""

    depth: int
    """Numbers of the sum that a lane of 32 bits holds."""
    lane: str
    pack: Callable[..., Expr]
    """`depth` float32x16 -> the lanes of one step of the sum."""
    multiply: Callable[[Expr, Expr, Expr], Expr]
    """(float32x16, panel, broadcast row) -> the first plus the products."""
    power: Callable[[Expr], Expr]
    """2**x of a float32x16 for x <= 0, as precise as the products need it."""

    def store_row(self, buffer: Any, value: Expr, row: Expr, first: Expr) -> None:
        """Emit the store of the 16 numbers of a row from its number `first` (a multiple of 16) on."""
        if self.depth == 1:
            simd.store(buffer, value, row, first)
        else:
            count = LANES // self.depth
            pairs = simd.bits(bfloat.round_bf16(value), f"int32x{count}")
            simd.store(buffer, pairs, row, T.truncdiv(first, T.int64(self.depth)), count=count)


FLOAT32 = Products(1, "float32", lambda x: x, lambda total, panel, row: simd.fma(row, panel, total), exp2)
BFLOAT16 = Products(2, "int32", bfloat.to_pairs, bfloat.dot_bf16, exp2_rough)


@dataclass(frozen=True)
class TileRows:
    """The rows of a tile: the heads that share one key/value head, of the tokens from `token` on."""

    token: Expr
    head: Expr
    slot: Expr
    count: Expr
    steps: Expr
    last_block: Expr


class Tiles:
    """Emits the attention of tiles."""

    def __init__(
        self,
        heads: Heads,
        tile: AttentionTile,
        products: Products,
        cache: Cache,
        batch: Batch,
        inputs: Inputs,
        out: Any,
    ) -> None:
        self.heads, self.tile, self.products, self.cache, self.batch = heads, tile, products, cache, batch
        self.inputs, self.out = inputs, out
        self.tokens = tile.most_tokens(heads.group)
        self.capacity = -(-self.tokens * heads.group // tile.rows) * tile.rows
        self.exact = products.depth == 1  # the bits of a token alone
        self.block = tile.block if self.exact else tile.wide_block
        self.width = next(w for w in (4, 2, 1) if w * tile.rows <= tile.registers and self.block % (w * LANES) == 0)
        panels = -(-heads.vectors * tile.rows // tile.registers)
        self.value_width = -(-heads.vectors // panels)

    def attend(self, token: Expr, tokens: Expr, head: Expr) -> None:
        """Emit the attention of `tokens` tokens of one slot from `token` on over their whole context."""
        group = self.heads.group
        count = keep(tokens * group)
        slot = keep(self.batch.slot(token))
        end = keep(self.batch.position(token + tokens - 1) + 1)
        rows = TileRows(
            token, head, slot, count, keep(ceildiv(count, self.tile.rows)), keep(T.truncdiv(end - 1, T.int64(LANES)))
        )
        dim, depth = self.heads.head_dim, self.products.depth
        lane = self.products.lane
        self.lines = workspace(self.capacity, dim // depth, dtype=lane)
        self.keys = workspace(self.block // LANES, dim // depth, LANES, dtype=lane)
        self.values = workspace(self.heads.vectors, self.block // depth + 1, LANES, dtype=lane)
        self.scores = workspace(self.capacity, self.block)
        self.weights = self.scores if self.exact else workspace(self.capacity, self.block // depth, dtype=lane)
        self.rescale = workspace(self.capacity, LANES)
        self.extents = workspace(self.capacity // self.tile.rows, dtype="int64")
        if self.cache.scaled:
            self.key_scales, self.value_scales = workspace(self.block), workspace(self.block)
            with T.serial(0, self.block // LANES) as vector:  # weights of segments beyond the end are stored, too
                simd.store(self.value_scales, simd.splat(0.0), vector * LANES)
        result = Partial(*Partial.allocate(rows=self.capacity, head_dim=dim))
        part = Partial(*Partial.allocate(rows=self.capacity, head_dim=dim)) if self.exact else result
        with T.serial(0, tokens) as index:

            def store(member: Expr, first: Expr, vector: Expr, index: Expr = index) -> None:
                self.products.store_row(self.lines, vector, index * group + member, first)

            ahead = keep(token + minimum(index + 2, tokens - 1))
            for member in range(group):
                self.inputs.prefetch(0, ahead, head * group + member)
            self.inputs.read_queries(token + index, head, store)
        clear(self.heads, rows.steps * self.tile.rows, result)
        if not self.exact:
            self._blocks(rows, T.int64(0), end, result)
        else:
            with T.serial(0, ceildiv(end, self.tile.chunk)) as chunk:
                start = keep(chunk * self.tile.chunk)
                clear(self.heads, rows.steps * self.tile.rows, part)
                self._blocks(rows, start, keep(minimum(start + self.tile.chunk, end)), part)
                merge(self.heads, count, result, part)
        finish(self.heads, token, head, count, result, self.out)

    def _position(self, rows: TileRows, row: Expr) -> Expr:
        return keep(self.batch.position(rows.token + T.truncdiv(row, T.int64(self.heads.group))))

    def _blocks(self, rows: TileRows, start: Expr, end: Expr, result: Partial) -> None:
        """The positions start <= t < end into `result`, block by block."""
        with T.serial(0, ceildiv(end - start, self.block)) as index:
            first = keep(start + index * self.block)
            length = keep(minimum(T.int64(self.block), end - first))
            with T.serial(0, rows.steps) as step:
                last = keep(minimum((step + 1) * self.tile.rows, rows.count) - 1)
                seen = keep(self._position(rows, last) - first + 1)
                T.buffer_store(self.extents, minimum(T.max(seen, T.int64(0)), length), [step])
            self._pack(rows, first, length)
            self._scores(rows, length)
            with T.serial(0, rows.count) as row:
                extent = keep(self.extents[T.truncdiv(row, T.int64(self.tile.rows))])
                with T.If(extent > 0), T.Then():
                    self._softmax_row(row, keep(self._position(rows, row) - first + 1), extent, result)
            self._values(rows, result)

    def _softmax_row(self, row: Expr, visible: Expr, extent: Expr, result: Partial) -> None:
        def store(first: Expr, weights: Expr) -> None:
            if self.cache.scaled:
                weights = weights * simd.load(self.value_scales, first)
            self.products.store_row(self.weights, weights, row, first)

        softmax_row(self.scores, row, self.block, visible, extent, result, self.rescale, self.products.power, store)

    def _pack(self, rows: TileRows, first: Expr, length: Expr) -> None:
        """Keys and values of the block into panels; of values, zeros beyond the end of the context."""
        depth, dim, cache = self.products.depth, self.heads.head_dim, self.cache
        with T.serial(0, ceildiv(length, LANES)) as vector:
            nominal = keep(T.truncdiv(first, T.int64(LANES)) + vector)
            page, block = cache.place(rows.slot, nominal)
            next_page, next_block = cache.place(rows.slot, keep(minimum(nominal + 1, rows.last_block)))
            place, ahead = Place(page, rows.head, block), Place(next_page, rows.head, next_block)
            with T.serial(0, dim // depth) as step:
                self._prefetch(cache.keys, ahead, step * (depth * LANES), depth * LANES)
                parts = [cache.key(place, step * depth + i) for i in range(depth)]
                simd.store(self.keys, self.products.pack(*parts), vector, step, 0)
            left = keep(minimum(T.int64(LANES), length - vector * LANES))
            if cache.scaled:
                simd.store(self.key_scales, cache.key_scales(place), vector * LANES)
                seen = keep(T.ramp(T.int32(0), 1, LANES)) < simd.splat(T.cast(left, "int32"))
                simd.store(
                    self.value_scales,
                    tirx.Select(seen, cache.value_scales(place), simd.splat(0.0)),
                    vector * LANES,
                )
            with T.serial(0, ceildiv(left, depth)) as step:
                self._prefetch(cache.values, ahead, step * (depth * dim), depth * dim)
                for v in range(self.heads.vectors):
                    parts = [cache.value(place, step * depth + i, v * LANES) for i in range(depth)]
                    simd.store(self.values, self.products.pack(*parts), v, vector * (LANES // depth) + step, 0)
            if depth == 2:
                with T.If(T.truncmod(left, T.int64(2)) == 1), T.Then(), T.serial(0, self.heads.vectors) as v:
                    value = cache.value(place, left - 1, v * LANES)
                    at = keep(vector * (LANES // depth) + T.truncdiv(left, T.int64(2)))
                    simd.store(self.values, self.products.pack(value, simd.splat(0.0)), v, at, 0)

    def _prefetch(self, buffer: Any, place: Place, first: Expr, count: int) -> None:
        """`count` elements of a block of 16 positions from its element `first` on: at head_dim 128 such a block is a
        page of memory, where the processor's own prefetching ends."""
        self.cache.prefetch(buffer, place, first, count, simd.BYTES)

    def _scores(self, rows: TileRows, length: Expr) -> None:
        width, dim = self.width, self.heads.head_dim
        with (
            T.serial(0, ceildiv(length, width * LANES)) as column,
            T.serial(0, rows.steps) as step,
            T.If(column * (width * LANES) < self.extents[step]),
            T.Then(),
        ):
            row = keep(step * self.tile.rows)
            panels = [keep(column * width + w) for w in range(width)]
            sums = self._product(self.lines, row, self.keys, panels, T.int64(dim // self.products.depth), None)
            for w, panel in enumerate(panels):
                scales = keep(simd.load(self.key_scales, panel * LANES)) if self.cache.scaled else None
                for r, row_sums in enumerate(sums):
                    score = simd.load(row_sums[w], 0)
                    simd.store(self.scores, score if scales is None else score * scales, row + r, panel * LANES)

    def _values(self, rows: TileRows, result: Partial) -> None:
        """out[row] = out[row] * rescale[row] + weights[row] @ values."""
        for start in range(0, self.heads.vectors, self.value_width):
            panels = [T.int64(v) for v in range(start, min(start + self.value_width, self.heads.vectors))]
            with T.serial(0, rows.steps) as step:
                extent = keep(self.extents[step])
                with T.If(extent > 0), T.Then():
                    row = keep(step * self.tile.rows)

                    def before(r: int, panel: Expr, row: Expr = row) -> Expr:
                        rescale = simd.load(self.rescale, row + r, 0)
                        return simd.load(result.out, row + r, panel * LANES) * rescale

                    depth = keep(ceildiv(extent, self.products.depth))
                    sums = self._product(self.weights, row, self.values, panels, depth, before)
                    for r, row_sums in enumerate(sums):
                        for panel, cell in zip(panels, row_sums, strict=True):
                            simd.store(result.out, simd.load(cell, 0), row + r, panel * LANES)

    def _product(
        self,
        lines: Any,
        row: Expr,
        panels: Any,
        columns: Sequence[Expr],
        depth: Expr,
        before: Callable[[int, Expr], Expr] | None,
    ) -> list[list[Any]]:
        """The registers of before(r, column) + sum over s < depth of lines[row + r, s] * panels[column, s, 0:16]."""
        sums = [[simd.scratch((LANES,), "float32") for _ in columns] for _ in range(self.tile.rows)]
        for r, row_sums in enumerate(sums):
            for column, cell in zip(columns, row_sums, strict=True):
                simd.store(cell, simd.splat(0.0) if before is None else before(r, column), 0)
        with T.serial(0, depth) as s:
            vectors = [keep(simd.load(panels, column, s, 0)) for column in columns]
            for r, row_sums in enumerate(sums):
                scalar = keep(simd.splat(lines[row + r, s]))
                for vector, cell in zip(vectors, row_sums, strict=True):
                    simd.store(cell, self.products.multiply(simd.load(cell, 0), vector, scalar), 0)
        return sums
