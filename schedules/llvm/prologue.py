"""How a kernel reads its rows: as they lie in memory, normalized (RMSNorm), or as silu(gate) * up (SwiGLU).

The kernels of `rms_norm` and `swiglu` are loops around the same expressions, so that a prologue gives the same bits as
the kernel it stands for.

Directly written TIR: the sum of squares needs accumulators of its own (LLVM may not split one float sum), and the
exponential is a vector expression of ours.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from tvm.script import tirx as T

from vamc_py.activation import Prologue

from . import simd
from .math import silu
from .simd import LANES, Expr, keep

PARALLEL_ROWS = 16
"""From here on, working on rows is worth waking the threads."""

_CHAINS = 4
"""Independent sums, for the latency of an FMA is four cycles."""


class RowSource(ABC):
    """Rows of `columns` float32 numbers, given out in vectors of 16. Emit `begin`, then pieces of that row."""

    computed = True
    """A piece costs more than a load: who needs it twice should keep it."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self._row: Expr = None

    def begin(self, row: Expr) -> None:
        """Emit what is computed once for the row; the pieces that follow are of this row."""
        self._row = row

    @abstractmethod
    def piece(self, column: Expr | int) -> Expr:
        """Columns column … column + 15 of the row: float32x16. May emit statements.

        Only a `column` that is a Python int may reach beyond the row's end; there the vector is zero.
        """

    def each(self, emit: Callable[[Expr, Expr | int], None], step: int = LANES) -> None:
        """Emit ``emit(piece, column)`` for all columns of the row, the end filled up with zeros: a loop, then the rest.

        With a `step` of several vectors the loop's body holds so many, and the rest comes vector by vector.
        """
        whole = self.columns - self.columns % step
        if whole:
            with T.serial(0, whole // step) as i:
                for start in range(0, step, LANES):
                    emit(keep(self.piece(i * step + start)), i * step + start)
        for column in range(whole, self.columns, LANES):
            emit(keep(self.piece(column)), column)

    def _load(self, buffer: Any, column: Expr | int, *lead: Expr, start: int = 0) -> Expr:
        """16 elements of buffer[*lead, start + column :], those from `columns` on zero."""
        if not isinstance(column, int) or column + LANES <= self.columns:
            return simd.load(buffer, *lead, column + start)
        last = simd.scratch((LANES,), "float32")
        simd.store(last, simd.splat(0.0), 0)
        for lane in range(self.columns - column):
            T.buffer_store(last, buffer[(*lead, column + start + lane)], [lane])
        return simd.load(last, 0)


class PlainRows(RowSource):
    """The rows of x float32[n, columns]."""

    computed = False

    def __init__(self, x: Any, columns: int) -> None:
        super().__init__(columns)
        self.x = x

    def piece(self, column: Expr | int) -> Expr:
        return self._load(self.x, column, self._row)


class NormalizedRows(RowSource):
    """x / sqrt(mean(x * x) + epsilon) * norm of each row of x float32[n, columns], with norm float32[columns].

    The factor 1 / sqrt(…) is rounded to float32, then multiplied by x, then by norm.
    """

    def __init__(self, x: Any, norm: Any, epsilon: float, columns: int) -> None:
        super().__init__(columns)
        self._x, self._norm, self._epsilon = x, norm, epsilon
        self._factor: Expr = None

    def begin(self, row: Expr) -> None:
        super().begin(row)
        mean = self._sum_of_squares() * T.float32(1 / self.columns)
        self._factor = keep(T.float32(1) / T.sqrt(mean + T.float32(self._epsilon)))

    def piece(self, column: Expr | int) -> Expr:
        x = self._load(self._x, column, self._row)
        return x * simd.splat(self._factor) * self._load(self._norm, column)

    def _sum_of_squares(self) -> Expr:
        """In four chains of vectors, in a fixed order."""
        sums = [simd.scratch((LANES,), "float32") for _ in range(_CHAINS)]
        for total in sums:
            simd.store(total, simd.splat(0.0), 0)

        def add(column: Expr | int, total: Any) -> None:
            value = keep(self._load(self._x, column, self._row))
            simd.store(total, simd.fma(value, value, simd.load(total, 0)), 0)

        turn = _CHAINS * LANES
        with T.serial(0, self.columns // turn) as i:
            for chain, total in enumerate(sums):
                add(i * turn + chain * LANES, total)
        for column in range(self.columns // turn * turn, self.columns, LANES):
            add(column, sums[0])
        first, second, third, fourth = (simd.load(total, 0) for total in sums)
        return simd.fold_sum(keep(keep(first + second) + keep(third + fourth)))


class GatedRows(RowSource):
    """silu(gate) * up of two rows of `columns`: gate from `gate_start` on, up from `up_start` (one buffer or two)."""

    def __init__(self, gate: Any, gate_start: int, up: Any, up_start: int, columns: int) -> None:
        super().__init__(columns)
        self._gate, self._gate_start, self._up, self._up_start = gate, gate_start, up, up_start

    def piece(self, column: Expr | int) -> Expr:
        gate = self._load(self._gate, column, self._row, start=self._gate_start)
        return silu(gate) * self._load(self._up, column, self._row, start=self._up_start)


def row_source(prologue: Prologue, x: Any, columns: int, norm: Any = None, epsilon: float = 0.0) -> RowSource:
    """The rows of `columns` that a linear layer with this prologue multiplies.

    x float32[n, columns]; for swiglu float32[n, 2 * columns], gates first. norm float32[columns], rms_norm only.
    """
    if prologue == "rms_norm":
        return NormalizedRows(x, norm, epsilon, columns)
    if prologue == "swiglu":
        return GatedRows(x, 0, x, columns, columns)
    return PlainRows(x, columns)


def write_row(source: RowSource, row: Expr, out: Any, out_row: Expr) -> None:
    """Emit out[out_row, :columns] = the row, nothing beyond the last column."""
    source.begin(row)

    def write(piece: Expr, column: Expr | int) -> None:
        if not isinstance(column, int) or column + LANES <= source.columns:
            simd.store(out, piece, out_row, column)
            return
        last = simd.scratch((LANES,), "float32")
        simd.store(last, piece, 0)
        for lane in range(source.columns - column):
            T.buffer_store(out, last[lane], [out_row, column + lane])

    source.each(write)


def each_row(n: Expr, emit: Callable[[Expr], None]) -> None:
    """Emit `emit(row)` for all rows below n, by all threads where that is worth waking them."""
    with T.If(n < PARALLEL_ROWS):
        with T.Then(), T.serial(0, n) as row:
            emit(row)
        with T.Else(), T.parallel(0, n) as row:
            emit(row)


def kept_row(source: RowSource, row: Expr) -> RowSource:
    """`source`, begun at `row`; where a piece is dear, the whole row is computed now and read from memory after."""
    if not source.computed:
        source.begin(row)
        return source
    rows = T.alloc_buffer((1, source.columns), "float32")
    write_row(source, row, rows, 0)
    kept = PlainRows(rows, source.columns)
    kept.begin(0)
    return kept


def written_rows(source: RowSource, n: Expr) -> Any:
    """A buffer float32[n, columns] with all rows of `source`: x itself, or a workspace that is filled first."""
    if isinstance(source, PlainRows):
        return source.x
    rows = simd.named("rows", T.alloc_buffer((n, source.columns), "float32"))
    each_row(n, lambda row: write_row(source, row, rows, row))
    return rows
