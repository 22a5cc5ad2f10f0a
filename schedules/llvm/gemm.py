"""What the matrix kernels share: register tiles over panels of weights, the order of the work, and the epilogue.

A task of a thread is one panel of 64 output features and a block of rows. Tasks are ordered by panel, and TVM gives
each thread a contiguous range of them, so that a thread streams a contiguous range of the weights. All row tiles of the
block pass over the panel while it is in the second-level cache.

A row is computed by the same sequence of operations in every tile, so its result does not depend on the other rows.

Written as TIR with explicit vectors because a tile needs exact register use for each number of rows left at the end
of a dynamic dimension, and prefetches; schedules cannot express either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from tvm.script import tirx as T

from . import simd
from .layout import PANEL
from .simd import BYTES, LANES, Expr


@dataclass(frozen=True)
class LinearTile:
    """The decisions of a matrix kernel that a tuner may take differently."""

    rows: int
    """Rows of x in a register tile."""
    vectors: int = 4
    """Vectors of 16 columns in a register tile: 1, 2 or 4."""
    longest: int = 0
    """The rows left over at the end join the last full tile where that makes at most so many rows."""
    row_block: int = 96
    """Rows in the task of a thread: smaller gives more tasks, larger reads the weights fewer times from memory."""
    prefetch_tiles: int = 2
    """The next panel is fetched during this many row tiles (0: not at all). It pays where a few tiles pass over a
    panel: during all but the first the memory would otherwise be idle."""
    streams: int = 2
    """Up to `stream_rows` rows, a thread reads this many panels at once, from ranges far apart."""
    stream_rows: int = 1
    """0: always one panel at a time."""
    ahead: int = 1024
    """In each of several streams, weights are fetched this many bytes ahead of use. (One stream alone the hardware
    fetches as well, and the prefetches cost a third of the speed on unlucky addresses.)"""

    def __post_init__(self) -> None:
        if self.vectors not in (1, 2, 4) or min(self.rows, self.row_block, self.streams) < 1:
            raise ValueError(f"{self} is no tile: vectors are 1, 2 or 4; rows, row_block and streams are positive")


Line: TypeAlias = tuple[Expr, Expr, Expr]
"""A cache line of the weights: panel, step (of four columns for int8, of one for floats), line in the step."""


def _nothing(_step: Expr, _lines: int) -> list[Line]:
    return []


@dataclass(frozen=True)
class Place:
    """Where a register tile lies: `rows` rows from `row` on, `vectors` vectors from `vector` on in each of `panels`."""

    panels: tuple[Expr, ...]
    vector: Expr
    vectors: int
    row: Expr
    rows: int
    prefetch: Callable[[Expr, int], list[Line]] = _nothing
    """(step, lines in a step) -> what to prefetch during that step; it may lie beyond the end of the weights."""

    @property
    def columns(self) -> list[tuple[Expr, Expr]]:
        """Panel and vector of each column of the tile."""
        return [(panel, self.vector + v) for panel in self.panels for v in range(self.vectors)]


@dataclass(frozen=True)
class Output:
    """y[n, features] and what the epilogue applies: value * (row_scale * scale) + bias + residual."""

    y: Any
    features: int
    scale: Any = None
    bias: Any = None
    residual: Any = None

    def write(self, value: Expr, row_scale: Expr | None, row: Expr, panel: Expr, vector: Expr) -> None:
        """Emit the store of the 16 sums `value`; columns beyond `features` are dropped."""
        column = panel * PANEL + vector * LANES
        if self.features % PANEL == 0:
            self._write_vector(value, row_scale, row, column)
            return
        value = T.bind(value)
        with T.If(column + LANES <= self.features):
            with T.Then():
                self._write_vector(value, row_scale, row, column)
            with T.Else():
                self._write_scalars(value, row_scale, row, column)

    def _write_vector(self, value: Expr, row_scale: Expr | None, row: Expr, column: Expr) -> None:
        def at(buffer: Any, *start: Expr) -> Expr:
            return simd.load(buffer, *start)

        factor = None if row_scale is None else simd.splat(row_scale)
        simd.store(self.y, self._finish(value, factor, row, column, at), row, column)

    def _write_scalars(self, value: Expr, row_scale: Expr | None, row: Expr, column: Expr) -> None:
        def at(buffer: Any, *index: Expr) -> Expr:
            return buffer[index]

        sums = simd.scratch((LANES,), "float32")
        simd.store(sums, value, 0)
        with T.serial(0, T.max(self.features - column, 0)) as i:
            T.buffer_store(self.y, self._finish(sums[i], row_scale, row, column + i, at), [row, column + i])

    def _finish(self, value: Expr, factor: Expr | None, row: Expr, column: Expr, at: Callable[..., Expr]) -> Expr:
        """The epilogue in a fixed order of roundings, for 16 columns or one."""
        addends = [] if self.bias is None else [at(self.bias, column)]
        addends += [] if self.residual is None else [at(self.residual, row, column)]
        if factor is not None:
            factor = factor * at(self.scale, column)
            value = simd.fma(value, factor, addends.pop(0)) if addends else value * factor
        for addend in addends:
            value = value + addend
        return value


Emit: TypeAlias = Callable[[Place], None]


def walk(n: Expr, features: int, tile: LinearTile, emit: Emit) -> None:
    """Emit the parallel loop over panels and blocks of rows, and within a task `emit` for each register tile."""
    panels = -(-features // PANEL)
    if tile.stream_rows == 0 or tile.streams == 1 or panels < tile.streams:
        _walk_blocks(n, panels, tile, emit)
        return
    with T.If(n <= tile.stream_rows):
        with T.Then():
            _walk_streams(n, panels, tile, emit)
        with T.Else():
            _walk_blocks(n, panels, tile, emit)


def _walk_streams(n: Expr, panels: int, tile: LinearTile, emit: Emit) -> None:
    """A task is one panel from each of `streams` equal ranges: a thread reads in so many places, each contiguous."""
    tasks = -(-panels // tile.streams)
    with T.parallel(0, tasks) as task:
        simd.named("task", task)
        group = tuple(task + stream * tasks for stream in range(tile.streams))
        for rows in range(1, tile.stream_rows + 1):
            with T.If(n == rows), T.Then():
                if panels % tile.streams == 0:
                    emit(_single(group, T.int32(0), rows, tile))
                else:
                    _emit_group(group, panels, rows, tile, emit)


def _emit_group(group: tuple[Expr, ...], panels: int, rows: int, tile: LinearTile, emit: Emit) -> None:
    """The group in one tile, or, where the last ranges are one shorter, what there is of it panel by panel."""
    with T.If(group[-1] < panels):
        with T.Then():
            emit(_single(group, T.int32(0), rows, tile))
        with T.Else():
            for panel in group:
                with T.If(panel < panels), T.Then():
                    emit(_single((panel,), T.int32(0), rows, tile))


def _single(group: tuple[Expr, ...], row: Expr, rows: int, tile: LinearTile, vector: Expr = 0) -> Place:
    """A tile that alone takes all rows, and so runs as fast as the weights come."""

    def ahead(step: Expr, lines: int) -> list[Line]:
        distance = tile.ahead // (lines * BYTES)
        return [(panel, step + distance, T.int32(line)) for panel in group for line in range(lines)]

    vectors = tile.vectors if len(group) == 1 else PANEL // LANES
    return Place(group, vector, vectors, row, rows, ahead if tile.ahead and len(group) > 1 else _nothing)


def _walk_blocks(n: Expr, panels: int, tile: LinearTile, emit: Emit) -> None:
    """A task is one panel and one block of rows."""
    blocks = simd.named("blocks", T.bind((n + (tile.row_block - 1)) // tile.row_block))
    with T.parallel(0, panels * blocks) as task:
        simd.named("task", task)
        panel = simd.opaque(task // blocks, "panel")
        first = simd.opaque(task % blocks * tile.row_block, "first")
        count = simd.opaque(T.min(n - first, tile.row_block), "count")
        single = max(tile.rows, tile.longest)
        with T.serial(0, PANEL // LANES // tile.vectors) as group:
            vector = group * tile.vectors
            with T.If(count <= single):
                with T.Then():
                    for rows in range(1, single + 1):
                        with T.If(count == rows), T.Then():
                            emit(_single((panel,), first, rows, tile, vector))
                with T.Else():
                    _walk_tiles(panel, vector, first, count, tile, emit)


def _walk_tiles(panel: Expr, vector: Expr, first: Expr, count: Expr, tile: LinearTile, emit: Emit) -> None:
    """At least two tiles: full ones, then the rows left over, in their own tile or joined with the last full one."""

    def place(row: Expr, rows: int, index: Expr) -> Place:
        prefetch = _next_panel(panel, index, tile.prefetch_tiles) if tile.prefetch_tiles else _nothing
        return Place((panel,), vector, tile.vectors, row, rows, prefetch)

    joined = [left for left in range(1, tile.rows) if left + tile.rows <= tile.longest]
    full = count // tile.rows
    if joined:
        full = full - T.cast(T.And(count % tile.rows > 0, count % tile.rows <= joined[-1]), "int32")
    full = simd.opaque(full, "full")
    with T.serial(0, full) as i:
        emit(place(first + i * tile.rows, tile.rows, i))
    end = T.bind(first + count)
    last = T.bind(count - full * tile.rows)
    for left in range(1, tile.rows):
        rows = left + tile.rows if left in joined else left
        with T.If(last == rows), T.Then():
            emit(place(end - rows, rows, full))


def _next_panel(panel: Expr, index: Expr, tiles: int) -> Callable[[Expr, int], list[Line]]:
    """Tile `index` fetches its share of the next panel; after `tiles` tiles it is there, and the rest fetch in vain."""
    index = T.bind(T.min(index, tiles - 1))

    def prefetch(step: Expr, lines: int) -> list[Line]:
        share = -(-lines // tiles)
        return [(panel + 1, step, index * share + line) for line in range(share)]

    return prefetch
