"""What the matrix kernels share: register tiles over panels of weights, the order of the work, and the epilogue.

A task of a thread is one panel of 64 output features and a block of rows. Tasks are ordered by block, then by panel:
the activations of a block stay in the second-level cache, and a thread streams a contiguous range of the weights. All
row tiles of the block pass over a part of the panel while that is in the second-level cache, and fetch the next part.
Rows are divided evenly into blocks and these into tiles, because a tile of few rows is slow.

A row is computed by the same sequence of operations in every tile, so its result does not depend on the other rows.

Written as TIR with explicit vectors because a tile needs exact register use for each number of rows left at the end
of a dynamic dimension, and prefetches; schedules cannot express either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from tvm.script import tirx as T

from . import launch, simd
from .layout import PANEL
from .simd import BYTES, LANES, Expr, workspace


@dataclass(frozen=True)
class LinearTile:
    """The decisions of a matrix kernel that a tuner may take differently."""

    rows: int
    """Most rows of x in a register tile."""
    vectors: int = 4
    """Vectors of 16 columns in a register tile: 1, 2 or 4."""
    row_block: int = 96
    """Most rows in the task of a thread: smaller gives more tasks, larger reads the weights fewer times from memory."""
    part: int = 1024
    """Most columns of a panel that all row tiles pass over before the next ones, while their sums wait in memory."""
    prefetch_tiles: int = 2
    """The next part of the weights is fetched during this many register tiles (0: not at all)."""
    streams: int = 2
    """Up to `stream_rows` rows, a thread reads this many panels at once, from ranges far apart."""
    splits: int = 1
    """Up to `stream_rows` rows, a thread reads each of these panels in this many places at once: only for sums that are
    exact in any order."""
    stream_rows: int = 1
    """0: always one panel at a time, from front to end."""
    ahead: int = 1024
    """In each of several streams, weights are fetched this many bytes ahead of use. (One stream alone the hardware
    fetches as well, and the prefetches cost a third of the speed on unlucky addresses.)"""

    def __post_init__(self) -> None:
        sizes = self.rows, self.row_block, self.part, self.streams, self.splits
        if self.vectors not in (1, 2, 4) or min(sizes) < 1:
            raise ValueError(
                f"{self} is no tile: vectors are 1, 2 or 4; rows, row_block, part, streams and splits are positive"
            )


Line: TypeAlias = tuple[Expr, Expr, Expr]
"""A cache line of the weights: panel, step (of four columns for int8, of one for floats), line from that step on."""


def _nothing(_step: Expr, _lines: int) -> list[Line]:
    return []


@dataclass(frozen=True)
class Steps:
    """How a kernel goes through the columns: in `total` steps, or in parts of `part` steps each (the last shorter)."""

    total: int
    part: int
    dtype: str = "int32"
    """The type of the sums that wait in memory between two parts."""
    sums: int = 1
    """Sums for each row of x and output feature."""

    @property
    def parts(self) -> int:
        return -(-self.total // self.part)


@dataclass(frozen=True)
class Part:
    """The steps of one pass of a tile: `count` steps from `first` on, with number `index` among `parts`."""

    index: Expr
    parts: int
    first: Expr
    count: Expr
    sums: Any = None
    """[rows of the block · sums for each, 64]: sums between the parts, where there are several."""


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
    part: Part | None = None
    """None: all columns."""
    block_row: Expr = 0
    """The first row of the tile within its block."""
    splits: int = 1
    """The columns are read in so many places at once (`each_step`)."""

    @property
    def columns(self) -> list[tuple[Expr, Expr]]:
        """Panel and vector of each column of the tile."""
        return [(panel, self.vector + v) for panel in self.panels for v in range(self.vectors)]

    def each_step(self, first: Expr, count: Expr, emit: Callable[[Expr], None]) -> None:
        """Emit ``emit(step)`` for the `count` steps from `first` on: in order, or with `splits` from so many places.

        With `splits`, `first` is 0 and `count` an int.
        """
        if self.splits == 1:
            with T.serial(0, count) as step:
                emit(first + simd.named("step", step))
            return
        share = count // self.splits
        with T.serial(0, share) as step:
            simd.named("step", step)
            for split in range(self.splits):
                emit(split * share + step)
        for step in range(share * self.splits, count):
            emit(T.int32(step))

    def resume(self, sums: list[list[Any]], start: Callable[[int], Expr]) -> None:
        """Emit the sums' first values: ``start(row of the tile)``, or what the part before has left."""
        if self.part is None or self.part.parts == 1:
            self._fill(sums, start)
            return
        with T.If(self.part.index == 0):
            with T.Then():
                self._fill(sums, start)
            with T.Else():
                for total, at in self._waiting(sums):
                    simd.store(total, simd.load(self.part.sums, *at), 0)

    def suspend(self, sums: list[list[Any]], finish: Callable[[], None]) -> None:
        """Emit ``finish()`` after the last part, and after the others the store of the sums."""
        if self.part is None or self.part.parts == 1:
            finish()
            return
        with T.If(self.part.index == self.part.parts - 1):
            with T.Then():
                finish()
            with T.Else():
                for total, at in self._waiting(sums):
                    simd.store(self.part.sums, simd.load(total, 0), *at)

    @staticmethod
    def _fill(sums: list[list[Any]], start: Callable[[int], Expr]) -> None:
        for r, row_sums in enumerate(sums):
            for total in row_sums:
                simd.store(total, start(r), 0)

    def _waiting(self, sums: list[list[Any]]) -> list[tuple[Any, tuple[Expr, Expr]]]:
        """Each sum, and its place among those that wait."""
        first = self.block_row * (len(sums) // self.rows)
        columns = [vector * LANES for _, vector in self.columns]
        return [
            (total, (first + r, column))
            for r, row in enumerate(sums)
            for total, column in zip(row, columns, strict=True)
        ]


@dataclass(frozen=True)
class Output:
    """y[n, features] and what the epilogue applies of value * (row_scale * scale) + bias + residual: what there is."""

    y: Any
    features: int
    scale: Any = None
    bias: Any = None
    residual: Any = None

    def fetch(self, place: Place) -> None:
        """Emit prefetches of what `write` will touch for this tile: stores to memory far away hold up the next tile."""
        for r in range(place.rows):
            for panel, vector in place.columns:
                at = (place.row + r, panel * PANEL + vector * LANES)
                simd.prefetch(self.y, *at, write=True)
                if self.residual is not None:
                    simd.prefetch(self.residual, *at)

    def write(self, value: Expr, row_scale: Expr | None, row: Expr, panel: Expr, vector: Expr) -> None:
        """Emit the store of the 16 sums `value`; columns beyond `features` are dropped. No `row_scale` is 1."""
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
        if self.scale is not None:
            scale = at(self.scale, column)
            factor = scale if factor is None else factor * scale
        if factor is not None:
            value = simd.fma(value, factor, addends.pop(0)) if addends else value * factor
        for addend in addends:
            value = value + addend
        return value


Emit: TypeAlias = Callable[[Place], None]


def walk(n: Expr, features: int, tile: LinearTile, emit: Emit, steps: Steps | None = None) -> None:
    """Emit the parallel loop over panels and blocks of rows, and within a task `emit` for each register tile.

    With `steps`, the tiles of a block pass over one part of the columns after the other (`Place.part`).
    """
    panels = -(-features // PANEL)
    if tile.stream_rows == 0 or tile.streams * tile.splits == 1 or panels < tile.streams:
        _walk_blocks(n, panels, tile, emit, steps)
        return
    with T.If(n <= tile.stream_rows):
        with T.Then():
            _walk_streams(n, panels, tile, emit, steps)
        with T.Else():
            _walk_blocks(n, panels, tile, emit, steps)


def _walk_streams(n: Expr, panels: int, tile: LinearTile, emit: Emit, steps: Steps | None) -> None:
    """A task is one panel from each of `streams` equal ranges: a thread reads in so many places, each contiguous."""
    tasks = -(-panels // tile.streams)
    with launch.tasks(tasks) as task:
        group = tuple(task + stream * tasks for stream in range(tile.streams))
        for rows in range(1, tile.stream_rows + 1):
            with T.If(n == rows), T.Then():
                if panels % tile.streams == 0:
                    emit(_streamed(group, rows, tile, steps))
                else:
                    _emit_group(group, panels, rows, tile, emit, steps)


def _emit_group(
    group: tuple[Expr, ...], panels: int, rows: int, tile: LinearTile, emit: Emit, steps: Steps | None
) -> None:
    """The group in one tile, or, where the last ranges are one shorter, what there is of it panel by panel."""
    with T.If(group[-1] < panels):
        with T.Then():
            emit(_streamed(group, rows, tile, steps))
        with T.Else():
            for panel in group:
                with T.If(panel < panels), T.Then():
                    emit(Place((panel,), 0, PANEL // LANES, T.int32(0), rows))


def _streamed(group: tuple[Expr, ...], rows: int, tile: LinearTile, steps: Steps | None) -> Place:
    """A tile that alone takes all rows, and so runs as fast as the weights come."""
    splits = 1 if steps is None else min(tile.splits, steps.total)
    share = 0 if steps is None else steps.total // splits

    def ahead(step: Expr, lines: int) -> list[Line]:
        distance = tile.ahead // (lines * BYTES)
        at = step + distance
        if steps is not None and splits > 1:  # from the end of a share on to the same share of the next panel
            at = T.bind(T.Select(step % share + distance < share, at, at + (steps.total - share)))
        return [(panel, at, T.int32(line)) for panel in group for line in range(lines)]

    prefetch = ahead if tile.ahead else _nothing
    return Place(group, 0, PANEL // LANES, T.int32(0), rows, prefetch, splits=splits)


def _walk_blocks(n: Expr, panels: int, tile: LinearTile, emit: Emit, steps: Steps | None) -> None:
    """A task is one panel and one block of rows."""
    blocks = simd.named("blocks", T.bind((n + (tile.row_block - 1)) // tile.row_block))
    with launch.tasks(panels * blocks) as task:
        panel = simd.opaque(task % panels, "panel")
        block = simd.opaque(task // panels, "block")
        first = simd.opaque(n * block // blocks, "first")
        count = simd.opaque(n * (block + 1) // blocks - first, "count")

        def passes(part: Part | None) -> None:
            with T.serial(0, PANEL // LANES // tile.vectors) as group:
                _walk_tiles(panel, group, first, count, tile, part, emit)

        if steps is None:
            passes(None)
            return
        sums = None
        if steps.parts > 1:
            sums = simd.named("sums", workspace(tile.row_block * steps.sums, PANEL, dtype=steps.dtype))
        with T.serial(0, steps.parts) as index:
            start = index * steps.part
            passes(Part(index, steps.parts, start, _shorter(steps, start), sums))


def _shorter(steps: Steps, start: Expr) -> Expr:
    """The steps of the part that starts there."""
    if steps.total % steps.part == 0:
        return T.int32(steps.part)
    return T.min(steps.part, steps.total - start)


def _walk_tiles(
    panel: Expr, group: Expr, first: Expr, count: Expr, tile: LinearTile, part: Part | None, emit: Emit
) -> None:
    """The tiles of one group of vectors, as few as can be: some of `size` rows, and the rest of one more."""
    tiles = simd.opaque((count + (tile.rows - 1)) // tile.rows, "tiles")
    larger = simd.opaque(count % tiles, "larger")
    with T.serial(0, 2) as more:
        size = simd.opaque(count // tiles + more, "size")
        number = simd.opaque(T.Select(more == 0, tiles - larger, larger), "number")
        before = simd.opaque(more * (tiles - larger), "before")
        for rows in range(1, tile.rows + 1):
            with T.If(size == rows), T.Then(), T.serial(0, number) as i:
                index = simd.opaque(group * tiles + before + i, "index")
                row = simd.opaque(before * (size - 1) + i * rows, "row")
                fetch = _next(panel, index, tile.prefetch_tiles, part) if tile.prefetch_tiles else _nothing
                emit(Place((panel,), group * tile.vectors, tile.vectors, first + row, rows, fetch, part, row))


def _next(panel: Expr, index: Expr, tiles: int, part: Part | None) -> Callable[[Expr, int], list[Line]]:
    """Tile number `index` of the task fetches its share of what comes after this part; after `tiles` tiles all of it is
    there, and the rest fetch in vain."""
    index = T.bind(T.min(index, tiles - 1))

    def prefetch(step: Expr, lines: int) -> list[Line]:
        share = -(-lines // tiles)
        if part is None:
            return [(panel + 1, step, index * share + line) for line in range(share)]
        end = part.first + part.count
        line = (index * part.count + (step - part.first)) * share
        return [(panel, end, line + number) for number in range(share)]

    return prefetch
