"""The intrinsics of the device model: how a kernel marks their use, and what each of them is defined to compute.

A use is a region of TIR, ``T.attr({"vacc.intrinsic": call})``, where the call names the intrinsic and its sizes (see
``runstream.program.Work``). The body of the region is the definition, in loops: the host compiles them as they stand,
which is the functional simulation, and the timing reads the call alone. This is a model of our own; no instruction set
of a real card is public.

* ``mma_f16``, ``mma_i8``: a tile of sums in the accumulators of a core's matrix unit. Products of two float16 are exact
  in float32 and their sums float32, in ascending order of k; products of two int8 and their sums are exact int32.
* ``drain``: accumulators go out, through the unit's epilogue.
* ``vector``: anything on the vector unit, with so many instructions for each element. Arithmetic and conversions count
  (rounding to float16 with saturation is one); loads and stores go beside them. All of the counts are assumptions.

The host's loops have no fused multiply-add (see ``host``), so a product is rounded, then the sum, as they are written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from tvm.script import tirx as T

from vamc_py.schedules.vacc.loops import LANES, Expr, bound, lanes, minimum, scratch, serial

ATTRIBUTE = "vacc.intrinsic"
FLOAT16_MAX = 65504.0

DIVISION = 4
"""Instructions of the vector unit for a division or a square root."""
EXPONENTIAL = 12
"""Instructions for e**x."""

_CHUNK = 256  # columns of k whose operands the host widens at a time: then they are in its first-level cache
_ROWS = 4  # rows of sums that the host keeps in registers


@contextmanager
def region(intrinsic: str, *sizes: Expr) -> Iterator[None]:
    """What is emitted within is the definition of one use of the intrinsic."""
    with T.attr({ATTRIBUTE: T.call_pure_extern("int32", intrinsic, *sizes)}):
        yield


def vector(elements: Expr, instructions: int) -> Any:
    """One use of the vector unit: `instructions` on each of `elements`."""
    return region("vector", elements, instructions)


def saturate(value: Expr) -> Expr:
    """float32 as float16, rounded to nearest even; beyond ±65504 it is that. NaN stays."""
    # The constant first: then NaN, which compares false, is what is left.
    value = T.max(T.float32(-FLOAT16_MAX), T.min(T.float32(FLOAT16_MAX), value))
    return T.cast(value, "float16")


def rounded_to(value: Expr, dtype: str) -> Expr:
    """float32 as `dtype`, "float32" or "float16"."""
    return saturate(value) if dtype == "float16" else value


@dataclass(frozen=True)
class Operands:
    """What a matrix unit multiplies: `rows` rows of a by `panels` panels of 16 columns of b, over `k`."""

    dtype: Literal["f16", "i8"]
    rows: Expr
    panels: Expr
    k: Expr
    a: Callable[[Expr, Expr], Expr]
    """(row, k) -> the element as it is stored, float16 or int8."""
    b: Callable[[Expr, Expr, Expr], Expr]
    """(panel, k, column in the panel) -> the element."""

    @property
    def sums(self) -> str:
        """The type of the accumulators."""
        return "float32" if self.dtype == "f16" else "int32"


def mma(operands: Operands, sums: Any, width: int, most_rows: int) -> None:
    """Emit one use of ``mma_f16`` or ``mma_i8``: sums[row * width + column] = Σ a[row, k] * b[k, column].

    `sums` are of ``operands.sums``; `most_rows` is the largest value that ``operands.rows`` can take. In float32 the
    sum starts with 0 and takes the products in ascending order of k.
    """
    with region(f"mma_{operands.dtype}", operands.rows, operands.panels * LANES, operands.k):
        zero = T.cast(0, operands.sums)
        with serial(operands.rows * width, "i") as i:
            T.buffer_store(sums, zero, [i])
        # The operands as they are multiplied, a part of k at a time; sums go on where the last part has left them.
        a_part = scratch(most_rows * _CHUNK, operands.sums, "a_part")
        b_part = scratch(LANES * _CHUNK, operands.sums, "b_part")
        with serial((operands.k + _CHUNK - 1) // _CHUNK, "chunk") as chunk:
            first = chunk * _CHUNK
            count = bound("columns", minimum(_CHUNK, operands.k - first))
            with serial(operands.rows, "row") as row, serial(count, "k") as k:
                T.buffer_store(a_part, T.cast(operands.a(row, first + k), operands.sums), [row * _CHUNK + k])
            with serial(operands.panels, "panel") as panel:
                with serial(count, "k") as k, lanes() as lane:
                    value = T.cast(operands.b(panel, first + k, lane), operands.sums)
                    T.buffer_store(b_part, value, [k * LANES + lane])
                if most_rows >= _ROWS:
                    with serial(operands.rows // _ROWS, "block") as block:
                        _add_products(sums, width, a_part, b_part, block * _ROWS, _ROWS, panel, count)
                with serial(operands.rows % _ROWS, "rest") as rest:
                    row = operands.rows // _ROWS * _ROWS + rest
                    _add_products(sums, width, a_part, b_part, row, 1, panel, count)


def _add_products(
    sums: Any, width: int, a_part: Any, b_part: Any, first: Expr, rows: int, panel: Expr, count: Expr
) -> None:
    """Emit sums += a_part * b_part for `rows` rows from `first` on and the columns of a panel, over `count` of k."""
    tile = scratch(rows * LANES, sums.dtype, "tile")

    def each(emit: Callable[[int, Expr], None]) -> None:
        for row in range(rows):
            with lanes() as lane:
                emit(row, lane)

    def place(row: int, lane: Expr) -> Expr:
        return (first + row) * width + panel * LANES + lane

    def add(row: int, lane: Expr) -> None:
        product = a_part[(first + row) * _CHUNK + k] * b_part[k * LANES + lane]
        T.buffer_store(tile, tile[row * LANES + lane] + product, [row * LANES + lane])

    each(lambda row, lane: T.buffer_store(tile, sums[place(row, lane)], [row * LANES + lane]))
    with serial(count, "k") as k:
        each(add)
    each(lambda row, lane: T.buffer_store(sums, tile[row * LANES + lane], [place(row, lane)]))


def drain(rows: Expr, panels: Expr, emit: Callable[[Expr, Expr, Expr], None]) -> None:
    """Emit one use of ``drain``: ``emit(row, panel, lane)`` for each of 16 lanes of each row and panel."""
    with (
        region("drain", rows * panels * LANES),
        serial(rows, "row") as row,
        serial(panels, "panel") as panel,
        lanes() as lane,
    ):
        emit(row, panel, lane)
