"""bfloat16 activations on vdpbf16ps, for many rows at once: weights of every format brought to bfloat16.

Rows of x are rounded to bfloat16 in a workspace. A task brings its panel of weights into the form of the instruction
once, [K/2][64] pairs of columns in a workspace for the second-level cache, and then all its row tiles pass over that:
at 512 rows this is a hundredth of the time. A long panel goes in parts that the cache holds, with the tiles' sums kept
in memory in between. Products are exact, sums are float32 in the order of the columns, so a row's bits do not depend on
the rows beside it.

Written as TIR with explicit vectors: TVM has no bfloat16 product (see `bfloat`).
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from . import bfloat, launch, simd
from .bfloat_weights import Weights
from .gemm import LinearTile, Output, Part, Place
from .layout import PANEL
from .prologue import RowSource, each_row
from .simd import LANES, Expr, workspace

TILE = LinearTile(rows=6, row_block=512, prefetch_tiles=2)
MOST_STEPS = 512  # of four columns in a part of a panel: 256 KiB of pairs
SHARED_PANELS = 32  # with fewer, a task has half of the rows: threads share tasks more evenly the more there are


def emit_bf16(source: RowSource, weights: Weights, output: Output, n: Expr, tile: LinearTile) -> None:
    """Emit the kernel: the n rows of `source` times the weights into `output`.

    Of the tile it takes `rows`, `vectors`, `row_block` and `prefetch_tiles`. ValueError where the instruction set has
    no bfloat16 products.
    """
    if not simd.current().bf16:
        raise ValueError("bfloat16 products need AVX512-BF16, which the instruction set has not")
    panels = -(-output.features // PANEL)
    row_block = tile.row_block if panels >= SHARED_PANELS else -(-tile.row_block // 2)
    with bfloat.instructions():
        rows = simd.named("row_pairs", T.alloc_buffer((n, -(-weights.columns // LANES) * (LANES // 2)), "int32"))
        each_row(n, lambda row: _round_row(source, row, rows))
        blocks = simd.named("blocks", T.bind((n + (row_block - 1)) // row_block))
        with launch.tasks(panels * blocks) as task:
            panel = simd.opaque(task // blocks, "panel")
            first = simd.opaque(task % blocks * row_block, "first")
            count = simd.opaque(T.min(n - first, row_block), "count")
            _Task(weights, panel, rows, output, tile, row_block).emit(first, count)


def _round_row(source: RowSource, row: Expr, rows: Any) -> None:
    """Emit rows[row] = the row as bfloat16, two columns in an int32, zeros up to a multiple of 16 columns."""
    source.begin(row)

    def store(piece: Expr, column: Expr | int) -> None:
        simd.store(rows, simd.bits(bfloat.round_bf16(piece), "int32x8"), row, column // 2, count=LANES // 2)

    source.each(store)


class _Task:
    """64 output features, for a block of at most `most_rows` rows."""

    def __init__(
        self, weights: Weights, panel: Expr, rows: Any, output: Output, tile: LinearTile, most_rows: int
    ) -> None:
        self._weights, self._panel, self._rows, self._output, self._tile = weights, panel, rows, output, tile
        self._parts = -(-weights.steps // MOST_STEPS)
        self._most_steps = -(-weights.steps // self._parts)
        self._pairs = simd.named("pairs", workspace(self._most_steps * 2, PANEL, dtype="int32"))
        self._sums = simd.named("sums", workspace(most_rows, PANEL)) if self._parts > 1 else None

    def emit(self, first: Expr, count: Expr) -> None:
        """Emit the task for the `count` rows from `first` on, in as few tiles as possible."""
        if self._parts == 1:
            self._emit_part(Part(T.int32(0), 1, T.int32(0), T.int32(self._weights.steps)), first, count)
            return
        with T.serial(0, self._parts) as index:
            start = simd.opaque(index * self._most_steps, "start")
            steps = simd.opaque(T.min(self._weights.steps - start, self._most_steps), "steps")
            self._emit_part(Part(index, self._parts, start, steps, self._sums), first, count)

    def _emit_part(self, part: Part, first: Expr, count: Expr) -> None:
        self._weights.convert(self._panel, part.first, part.count, self._pairs)
        with T.serial(0, PANEL // LANES // self._tile.vectors) as group:
            self._emit_tiles(part, first, count, group * self._tile.vectors)

    def _emit_tiles(self, part: Part, first: Expr, count: Expr, vector: Expr) -> None:
        """The last two tiles share their rows evenly, since a tile of one row takes as long as one of three. The others
        are full, in a loop of their own without a branch, which is two hundredths faster.
        """
        longest = self._tile.rows
        tiles = simd.opaque((count + (longest - 1)) // longest, "tiles")
        full = simd.opaque(T.max(tiles - 2, 0), "full")
        with T.serial(0, full) as i:
            self._emit_tile(part, first, i * longest, longest, vector, i)
        last = simd.opaque(tiles - full, "last")
        rest = simd.opaque(count - full * longest, "rest")
        with T.serial(0, last) as i:
            start = simd.opaque(i * rest // last, "start")
            rows = simd.opaque((i + 1) * rest // last - start, "rows")
            for number in range(1, longest + 1):
                with T.If(rows == number), T.Then():
                    self._emit_tile(part, first, full * longest + start, number, vector, full + i)

    def _emit_tile(self, part: Part, first: Expr, row: Expr, rows: int, vector: Expr, index: Expr) -> None:
        """Emit tile number `index`: `rows` rows from first + row on, `vectors` vectors from `vector` on."""
        place = Place((self._panel,), vector, self._tile.vectors, first + row, rows, part=part, block_row=row)
        sums = [[simd.scratch((LANES,), "float32") for _ in place.columns] for _ in range(rows)]
        place.resume(sums, lambda _row: simd.splat(0.0))
        with T.serial(0, part.count) as step:
            simd.named("step", step)
            self._prefetch(part.first + self._most_steps + step, index)
            for half in range(2):
                weights = [
                    T.bind(simd.load(self._pairs, step * 2 + half, column * LANES)) for _, column in place.columns
                ]
                for r, row_sums in enumerate(sums):
                    value = T.bind(simd.splat(self._rows[place.row + r, (part.first + step) * 2 + half]))
                    for total, weights_of_vector in zip(row_sums, weights, strict=True):
                        simd.store(total, bfloat.dot_bf16(simd.load(total, 0), weights_of_vector, value), 0)

        def write() -> None:
            row_scale = T.float32(1) if self._weights.scaled else None
            for r, row_sums in enumerate(sums):
                for (panel, column), total in zip(place.columns, row_sums, strict=True):
                    self._output.write(simd.load(total, 0), row_scale, place.row + r, panel, column)

        place.suspend(sums, write)

    def _prefetch(self, step: Expr, index: Expr) -> None:
        """Emit the fetch of a share of a step of the next part or panel: after `prefetch_tiles` tiles all is there."""
        if tiles := self._tile.prefetch_tiles:
            share = -(-self._weights.lines // tiles)
            for line in range(share):
                self._weights.prefetch(self._panel, step, T.min(index, tiles - 1) * share + line)
