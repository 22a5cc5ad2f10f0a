"""Float weights: converted to float32 in registers; fused multiply-adds in the order of the columns."""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from . import simd
from .gemm import LinearTile, Output, Place, walk
from .layout import PANEL
from .prologue import RowSource, written_rows
from .simd import BYTES, LANES, Expr

TILE = LinearTile(rows=6, stream_rows=2)


def emit_float(source: RowSource, weight: Any, output: Output, n: Expr, columns: int, tile: LinearTile) -> None:
    """Emit the kernel: the n rows of `source` times the packed float16, bfloat16 (uint16) or float32 weight."""
    x = written_rows(source, n)
    walk(n, output.features, tile, lambda place: _tile(x, weight, output, columns, place))


def _tile(x: Any, weight: Any, output: Output, columns: int, place: Place) -> None:
    size = 4 if weight.dtype == "float32" else 2
    sums = [[simd.scratch((LANES,), "float32") for _ in place.columns] for _ in range(place.rows)]
    for total in (total for row_sums in sums for total in row_sums):
        simd.store(total, simd.splat(0.0), 0)
    with T.serial(0, columns) as column:
        simd.named("column", column)
        weights = [T.bind(_load(weight, panel, column, v * LANES)) for panel, v in place.columns]
        for panel, at, line in place.prefetch(column, PANEL * size // BYTES):
            simd.prefetch(weight, panel, at, line * (BYTES // size))
        for r, row_sums in enumerate(sums):
            value = T.bind(simd.splat(x[place.row + r, column]))
            for total, weights_of_column in zip(row_sums, weights, strict=True):
                simd.store(total, simd.fma(value, weights_of_column, simd.load(total, 0)), 0)
    for r, row_sums in enumerate(sums):
        for (panel, v), total in zip(place.columns, row_sums, strict=True):
            output.write(simd.load(total, 0), None, place.row + r, panel, v)


def _load(weight: Any, panel: Expr, column: Expr, row: Expr) -> Expr:
    """16 weights as float32 (exact for each type)."""
    stored = simd.load(weight, panel, column, row)
    if weight.dtype == "float32":
        return stored
    return simd.widen_bfloat16(stored) if weight.dtype == "uint16" else T.cast(stored, "float32x16")
