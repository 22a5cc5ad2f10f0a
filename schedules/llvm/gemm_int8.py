"""w8a16 on vpdpbusd: int8 weights times activations of 16 bits, which are two int8 digits. Exact until the epilogue.

A row x becomes s = max|x| / 32512 and a = round(x / s), a = 256 * high + low with both digits int8 (|high| <= 127).
Both digit rows pass over the unsigned weights w + 128; their int32 sums start at -128 * sum(digits), which takes the
offset back. The result is (256 * sum_high + sum_low) * (s * scale) + bias + residual.

One digit row costs one vpdpbusd per 64 weights, so decoding stays bound by memory up to about four rows, where
converting weights to float32 is not; and 16 bits of activation lose nothing that int8 weights keep.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm.script import tirx as T

from . import simd
from .gemm import LinearTile, Output, Place, Steps, walk
from .layout import PANEL, QUAD, ZERO_POINT
from .prologue import RowSource, each_row, kept_row
from .row_quantization import largest_of, rounded, scale_and_inverse
from .simd import BYTES, LANES, Expr

LARGEST = 32512  # the largest |a|: 127 * 256, so that the high digit fits
TILE = LinearTile(rows=3, row_block=48)


@dataclass(frozen=True)
class Digits:
    """The quantized activations: rows 2i (low) and 2i + 1 (high) of `rows` are those of row i of x."""

    rows: Any
    """int8[2n, stride], zero beyond the columns of x."""
    offsets: Any
    """int32[2n]: -128 times the sum of each digit row."""
    scales: Any
    """float32[n]: s."""


def emit_int8(source: RowSource, weight: Any, output: Output, n: Expr, columns: int, tile: LinearTile) -> None:
    """Emit the kernel: the n rows of `source` times the packed weight into `output`."""
    # One line more than the row needs: rows a multiple of 4096 bytes apart would all fall into one set of the cache.
    stride = -(-columns // BYTES) * BYTES + BYTES
    digits = Digits(
        simd.named("digits", T.alloc_buffer((n * 2, stride), "int8")),
        simd.named("offsets", T.alloc_buffer((n * 2,), "int32")),
        simd.named("scales", T.alloc_buffer((n,), "float32")),
    )
    each_row(n, lambda row: _quantize(kept_row(source, row), row, digits))
    steps = Steps(-(-columns // QUAD), -(-tile.part // QUAD), sums=2)
    walk(n, output.features, tile, lambda place: _tile(digits, weight, output, columns, place), steps)


def _tile(digits: Digits, weight: Any, output: Output, columns: int, place: Place) -> None:
    sums = [[simd.scratch((LANES,), "int32") for _ in place.columns] for _ in range(2 * place.rows)]
    first, count = (T.int32(0), -(-columns // QUAD)) if place.part is None else (place.part.first, place.part.count)
    place.resume(sums, lambda r: simd.splat(digits.offsets[place.row * 2 + r]))
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


def _quantize(source: RowSource, row: Expr, digits: Digits) -> None:
    """Emit the digits, offsets and scale of one row. NaN and infinity in x become NaN or infinity in the scale."""
    scale, inverse = scale_and_inverse(largest_of(source.each), LARGEST)
    T.buffer_store(digits.scales, scale, [row])
    totals = simd.scratch((2, LANES), "int32")
    for digit in (0, 1):
        simd.store(totals, T.broadcast(T.int32(0), LANES), digit, 0)

    def split(piece: Expr, column: Expr) -> None:
        whole = T.bind(rounded(piece, inverse))
        eight = T.broadcast(T.int32(8), LANES)
        high = T.bind(T.shift_right(whole + T.broadcast(T.int32(128), LANES), eight))
        low = T.bind(whole - T.shift_left(high, eight))
        for digit, value in enumerate((low, high)):
            simd.store(digits.rows, T.cast(value, "int8x16"), row * 2 + digit, column)
            simd.store(totals, simd.load(totals, digit, 0) + value, digit, 0)

    source.each(split)
    for digit in (0, 1):
        total = simd.fold_sum(simd.load(totals, digit, 0), "int32")
        T.buffer_store(digits.offsets, total * -ZERO_POINT, [row * 2 + digit])
