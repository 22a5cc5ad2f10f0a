"""float8_e4m3fn weights with scales for groups of columns: made float32 in registers, exactly; fused multiply-adds.

A group's sum goes over its columns in order, from zero, and a total over the groups, total = fma(sum, scale, total).
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from . import simd
from .gemm import LinearTile, Output, Place, walk
from .layout import PANEL
from .prologue import RowSource, written_rows
from .simd import BYTES, LANES, Expr

TILE = LinearTile(rows=6, stream_rows=2)
_EXPONENTS = 256.0
"""A float8's bits in their places of a float16 are the number / 256: the exponents start at -7 and at -15."""


def widen_float8(stored: Expr) -> Expr:
    """uint8x16, the bits of float8_e4m3fn, as float32x16: the numbers / 256, exact (denormal ones, too)."""
    words = T.bind(T.cast(stored, "uint16x16"))

    def every(value: int) -> Expr:
        return T.broadcast(T.uint16(value), LANES)

    magnitude = T.shift_left(words & every(0x7F), every(7))
    return T.cast(simd.bits(magnitude | T.shift_left(words & every(0x80), every(8)), "float16x16"), "float32x16")


def float8_scale(scale: Any, panel: Expr, group: Expr, vector: Expr) -> Expr:
    """float32x16: what 16 rows of `widen_float8` are multiplied by, from scales float32 [panels, groups, 64]."""
    return simd.load(scale, panel, group, vector * LANES) * simd.splat(_EXPONENTS)


def emit_float8(
    source: RowSource, weight: Any, scale: Any, output: Output, n: Expr, columns: int, group: int, tile: LinearTile
) -> None:
    """Emit the kernel: the n rows of `source` times the packed weight into `output` (which has no scale).

    `scale` is float32 [panels, groups, 64], a group `group` columns; the last may be shorter.
    """
    x = written_rows(source, n)

    def emit(place: Place) -> None:
        _tile(x, weight, scale, output, columns, group, place)

    walk(n, output.features, tile, emit)


def _tile(x: Any, weight: Any, scale: Any, output: Output, columns: int, group: int, place: Place) -> None:
    sums, totals = (
        [[simd.scratch((LANES,), "float32") for _ in place.columns] for _ in range(place.rows)] for _ in "ab"
    )
    for total in (total for row in totals for total in row):
        simd.store(total, simd.splat(0.0), 0)
    with T.serial(0, -(-columns // group)) as index:
        simd.named("group", index)
        for total in (total for row in sums for total in row):
            simd.store(total, simd.splat(0.0), 0)
        first = T.bind(index * group)
        with T.serial(0, T.min(group, columns - first) if columns % group else group) as step:
            column = T.bind(first + step)
            for panel, at, line in place.prefetch(column, PANEL // BYTES):
                simd.prefetch(weight, panel, at, line * BYTES)
            weights = [T.bind(widen_float8(simd.load(weight, panel, column, v * LANES))) for panel, v in place.columns]
            for r, row_sums in enumerate(sums):
                value = T.bind(simd.splat(x[place.row + r, column]))
                for total, of_column in zip(row_sums, weights, strict=True):
                    simd.store(total, simd.fma(value, of_column, simd.load(total, 0)), 0)
        for c, (panel, v) in enumerate(place.columns):
            factor = T.bind(float8_scale(scale, panel, index, v))
            for row_totals, row_sums in zip(totals, sums, strict=True):
                simd.store(row_totals[c], simd.fma(simd.load(row_sums[c], 0), factor, simd.load(row_totals[c], 0)), 0)
    for r, row_totals in enumerate(totals):
        for (panel, v), total in zip(place.columns, row_totals, strict=True):
            output.write(simd.load(total, 0), None, place.row + r, panel, v)
