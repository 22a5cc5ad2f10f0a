"""w4a16 and w8a16 with a scale for each group of columns: integer weights times 16-bit activations, on vpdpbusd.

Both digit rows of the activations (see `digits`) pass over the unsigned weights w + z (z = 8 for four bits, 128 for
eight); their int32 sums of a group start at -(z + zero) * sum(digits), which takes the offset and the zero point back,
and so are exact. A float32 total goes over the groups in the order of the columns,
total = fma(256 * sum_high + sum_low, scale, total), and the result is total * s + bias + residual.

Four bits are unpacked in registers: two operations a cache line, against four to eight products.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm.script import tirx as T

from vamc_py.weights.formats import WeightFormat

from . import simd
from .digits import Digits, digits_of
from .gemm import LinearTile, Output, Place, Steps, walk
from .layout import OCTET, PANEL, QUAD, ZERO_POINT, ZERO_POINT_4
from .prologue import RowSource
from .simd import BYTES, LANES, Expr

# Half a panel: of four rows, the sums of both digits and the unpacked weights fit into the registers.
TILE = LinearTile(rows=4, vectors=2, row_block=48)


@dataclass(frozen=True)
class GroupedWeight:
    """An integer weight, packed, with what belongs to its groups."""

    values: Any
    """uint8 panels of four or eight bits (see `layout`)."""
    scale: Any
    """float32 or float16 [panels, groups, 64]."""
    zero: Any
    """int8 of that shape, or None."""
    bits: int
    columns: int
    group: int

    @staticmethod
    def of(form: WeightFormat, columns: int, values: Any, scale: Any, zero: Any) -> GroupedWeight:
        """The weight of that format, from the buffers of a kernel."""
        return GroupedWeight(values, scale, zero, form.bits, columns, min(form.group or columns, columns))

    @property
    def width(self) -> int:
        """Columns in a cache line of a vector: what a step takes."""
        return QUAD if self.bits == 8 else OCTET

    @property
    def offset(self) -> int:
        """What is added to the values to make them unsigned."""
        return ZERO_POINT if self.bits == 8 else ZERO_POINT_4

    @property
    def steps(self) -> int:
        return -(-self.columns // self.width)

    @property
    def group_steps(self) -> int:
        return -(-self.group // self.width)

    def quads(self, panel: Expr, step: Expr, vector: Expr) -> list[Expr]:
        """The values of a step as uint8x64, four columns for each of 16 rows: one vector, of four bits two. Emits
        bindings."""
        line = T.bind(simd.load(self.values, panel, step, vector, 0, 0, count=BYTES))
        if self.bits == 8:
            return [line]
        words = simd.bits(line, "uint32x16")
        low = T.broadcast(T.uint32(0x0F0F0F0F), LANES)
        halves = words & low, T.shift_right(words, T.broadcast(T.uint32(4), LANES)) & low
        return [T.bind(simd.bits(half, "uint8x64")) for half in halves]

    def scales(self, panel: Expr, group: Expr, vector: Expr) -> Expr:
        """float32x16: the scales of 16 rows."""
        stored = simd.load(self.scale, panel, group, vector * LANES)
        return stored if self.scale.dtype == "float32" else T.cast(stored, "float32x16")

    def zeros(self, panel: Expr, group: Expr, vector: Expr) -> Expr:
        """int32x16: what 16 rows' unsigned values have for zero."""
        offset = T.broadcast(T.int32(self.offset), LANES)
        if self.zero is None:
            return offset
        return T.cast(simd.load(self.zero, panel, group, vector * LANES), "int32x16") + offset


def emit_groups(source: RowSource, weight: GroupedWeight, output: Output, n: Expr, tile: LinearTile) -> None:
    """Emit the kernel: the n rows of `source` times the weight into `output` (which has no scale)."""
    digits = digits_of(source, n, weight.group)
    part = max(tile.part // weight.group, 1) * weight.group_steps
    steps = Steps(weight.steps, part, "float32")
    walk(n, output.features, tile, lambda place: _tile(digits, weight, output, place), steps)


def _tile(digits: Digits, weight: GroupedWeight, output: Output, place: Place) -> None:
    def registers(rows: int, dtype: str) -> list[list[Any]]:
        return [[simd.scratch((LANES,), dtype) for _ in place.columns] for _ in range(rows)]

    sums, totals = registers(2 * place.rows, "int32"), registers(place.rows, "float32")
    first, count = (T.int32(0), T.int32(weight.steps))
    if place.part is not None:
        first, count = place.part.first, place.part.count
    place.resume(totals, lambda _row: simd.splat(0.0))
    first_group = simd.opaque(first // weight.group_steps, "first_group")
    with T.serial(0, (count + (weight.group_steps - 1)) // weight.group_steps) as i:
        group = T.bind(first_group + i)
        _start(digits, weight, place, group, sums)
        begin = T.bind(group * weight.group_steps)
        rest = weight.steps % weight.group_steps
        with T.serial(0, T.min(weight.group_steps, weight.steps - begin) if rest else weight.group_steps) as step:
            _step(digits, weight, place, begin + simd.named("step", step), sums)
        _add(weight, place, group, sums, totals)

    def finish() -> None:
        for r, row_totals in enumerate(totals):
            scale = T.bind(digits.scales[place.row + r])
            for (panel, v), total in zip(place.columns, row_totals, strict=True):
                output.write(simd.load(total, 0), scale, place.row + r, panel, v)

    place.suspend(totals, finish)


def _start(digits: Digits, weight: GroupedWeight, place: Place, group: Expr, sums: list[list[Any]]) -> None:
    """Emit sums = -zero * sum(digits) of the group."""
    if weight.zero is None:
        for r, row_sums in enumerate(sums):
            for total in row_sums:
                simd.store(total, simd.splat(digits.sums[place.row * 2 + r, group] * -weight.offset), 0)
        return
    for c, (panel, v) in enumerate(place.columns):
        zeros = T.bind(weight.zeros(panel, group, v))
        for r, row_sums in enumerate(sums):
            simd.store(row_sums[c], zeros * simd.splat(-digits.sums[place.row * 2 + r, group]), 0)


def _step(digits: Digits, weight: GroupedWeight, place: Place, step: Expr, sums: list[list[Any]]) -> None:
    """Emit the products of four or eight columns."""
    for panel, at, line in place.prefetch(step, PANEL * QUAD // BYTES):
        simd.prefetch(weight.values, panel, at, line, 0, 0)
    values = [weight.quads(panel, step, v) for panel, v in place.columns]
    for r, row_sums in enumerate(sums):
        for half in range(weight.width // QUAD):
            quad = T.bind(simd.quad(digits.rows, place.row * 2 + r, step * weight.width + half * QUAD))
            for total, of_column in zip(row_sums, values, strict=True):
                simd.store(total, simd.dot_u8s8(simd.load(total, 0), of_column[half], quad), 0)


def _add(weight: GroupedWeight, place: Place, group: Expr, sums: list[list[Any]], totals: list[list[Any]]) -> None:
    """Emit totals += (256 * high + low) * scale of the group."""
    for c, (panel, v) in enumerate(place.columns):
        scale = T.bind(weight.scales(panel, group, v))
        for r, row_totals in enumerate(totals):
            low, high = (T.cast(simd.load(sums[2 * r + digit][c], 0), "float32x16") for digit in (0, 1))
            value = simd.fma(high, simd.splat(256.0), low)
            simd.store(row_totals[c], simd.fma(value, scale, simd.load(row_totals[c], 0)), 0)
