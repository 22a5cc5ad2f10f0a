"""w8a16 on vpdpbusd: int8 weights times activations of 16 bits, which are two int8 digits. Exact until the epilogue.

Both digit rows (see `digits`) pass over the unsigned weights w + 128; their int32 sums start at -128 * sum(digits),
which takes the offset back. The result is (256 * sum_high + sum_low) * (s * scale) + bias + residual.

One digit row costs one vpdpbusd per 64 weights, so decoding stays bound by memory up to about four rows, where
converting weights to float32 is not; and 16 bits of activation lose nothing that int8 weights keep.
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from . import simd
from .digits import Digits, digits_of
from .gemm import LinearTile, Output, Place, Steps, walk
from .layout import PANEL, QUAD, ZERO_POINT
from .prologue import RowSource
from .simd import BYTES, LANES, Expr

TILE = LinearTile(rows=3, row_block=48)


def emit_int8(source: RowSource, weight: Any, output: Output, n: Expr, columns: int, tile: LinearTile) -> None:
    """Emit the kernel: the n rows of `source` times the packed weight into `output`."""
    digits = digits_of(source, n, columns)
    steps = Steps(-(-columns // QUAD), -(-tile.part // QUAD), sums=2)
    walk(n, output.features, tile, lambda place: _tile(digits, weight, output, columns, place), steps)


def _tile(digits: Digits, weight: Any, output: Output, columns: int, place: Place) -> None:
    sums = [[simd.scratch((LANES,), "int32") for _ in place.columns] for _ in range(2 * place.rows)]
    first, count = (T.int32(0), -(-columns // QUAD)) if place.part is None else (place.part.first, place.part.count)
    place.resume(sums, lambda r: simd.splat(digits.sums[place.row * 2 + r, 0] * -ZERO_POINT))
    place.each_step(first, count, lambda step: dot_step(digits.rows, place.row * 2, weight, place, step, sums))

    def finish() -> None:
        for r in range(place.rows):
            scale = T.bind(digits.scales[place.row + r])
            for (panel, v), low, high in zip(place.columns, sums[2 * r], sums[2 * r + 1], strict=True):
                digit_sums = [T.cast(simd.load(total, 0), "float32x16") for total in (low, high)]
                value = simd.fma(digit_sums[1], simd.splat(256.0), digit_sums[0])
                output.write(value, scale, place.row + r, panel, v)

    place.suspend(sums, finish)


def dot_step(rows: Any, first: Expr, weight: Any, place: Place, step: Expr, sums: list[list[Any]]) -> None:
    """Emit four columns of a tile: sums[r] += the weights times row first + r of `rows` int8[…, stride]."""
    weights = [T.bind(simd.load(weight, panel, step, v, 0, 0, count=BYTES)) for panel, v in place.columns]
    for panel, at, line in place.prefetch(step, PANEL * QUAD // BYTES):
        simd.prefetch(weight, panel, at, line, 0, 0)
    for r, row_sums in enumerate(sums):
        quad = T.bind(simd.quad(rows, first + r, step * QUAD))
        for total, weights_of_column in zip(row_sums, weights, strict=True):
            simd.store(total, simd.dot_u8s8(simd.load(total, 0), weights_of_column, quad), 0)
