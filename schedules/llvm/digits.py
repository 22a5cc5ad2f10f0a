"""Activations of 16 bits as two int8 digits, which is how weights of 8 and 4 bits meet them on vpdpbusd.

A row x becomes s = max|x| / 32512 and a = round(x / s), a = 256 * high + low with both digits int8 (|high| <= 127).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm.script import tirx as T

from . import simd
from .prologue import RowSource, each_row, kept_row
from .row_quantization import largest_of, rounded, scale_and_inverse
from .simd import BYTES, LANES, Expr

LARGEST = 32512  # the largest |a|: 127 * 256, so that the high digit fits
_UNROLLED = 8  # vectors of a group whose code is written out


@dataclass(frozen=True)
class Digits:
    """The quantized activations: rows 2i (low) and 2i + 1 (high) of `rows` are those of row i of x."""

    rows: Any
    """int8[2n, stride], zero beyond the columns of x."""
    sums: Any
    """int32[2n, groups]: the sum of each digit row's groups of columns."""
    scales: Any
    """float32[n]: s."""


def digits_of(source: RowSource, n: Expr, group: int) -> Digits:
    """Emit the digits of the n rows of `source`, with sums over groups of `group` columns; the last may be shorter.

    `group` is a multiple of 16 or at least the number of columns. NaN and infinity in a row become NaN or infinity in
    its scale.
    """
    if group % LANES and group < source.columns:
        raise ValueError(f"a group is a multiple of {LANES} columns, not {group}")
    # One line more than the row needs: rows a multiple of 4096 bytes apart would all fall into one set of the cache.
    stride = -(-source.columns // BYTES) * BYTES + BYTES
    digits = Digits(
        simd.named("digits", T.alloc_buffer((n * 2, stride), "int8")),
        simd.named("digit_sums", T.alloc_buffer((n * 2, -(-source.columns // group)), "int32")),
        simd.named("scales", T.alloc_buffer((n,), "float32")),
    )
    each_row(n, lambda row: _quantize(kept_row(source, row), row, digits, group))
    return digits


def _quantize(source: RowSource, row: Expr, digits: Digits, group: int) -> None:
    """Emit the digits, sums and scale of one row."""
    scale, inverse = scale_and_inverse(largest_of(source.each), LARGEST)
    T.buffer_store(digits.scales, scale, [row])
    totals = simd.scratch((2, LANES), "int32")

    def split(piece: Expr, column: Expr) -> None:
        whole = T.bind(rounded(piece, inverse))
        eight = T.broadcast(T.int32(8), LANES)
        high = T.bind(T.shift_right(whole + T.broadcast(T.int32(128), LANES), eight))
        low = T.bind(whole - T.shift_left(high, eight))
        for digit, value in enumerate((low, high)):
            simd.store(digits.rows, T.cast(value, "int8x16"), row * 2 + digit, column)
            simd.store(totals, simd.load(totals, digit, 0) + value, digit, 0)

    def of_group(index: Expr | int, each: Callable[[Callable[[Expr, Expr], None]], None]) -> None:
        for digit in (0, 1):
            simd.store(totals, T.broadcast(T.int32(0), LANES), digit, 0)
        each(split)
        for digit in (0, 1):
            T.buffer_store(digits.sums, simd.fold_sum(simd.load(totals, digit, 0), "int32"), [row * 2 + digit, index])

    if group >= source.columns:
        of_group(0, source.each)
        return
    whole = source.columns // group
    with T.serial(0, whole) as index:
        of_group(index, lambda emit: _each_vector(source, index * group, group, emit))
    if rest := source.columns % group:
        columns = range(whole * group, whole * group + rest, LANES)

        def last(emit: Callable[[Expr, Expr], None]) -> None:
            for column in columns:
                emit(simd.keep(source.piece(column)), column)

        of_group(whole, last)


def _each_vector(source: RowSource, first: Expr, count: int, emit: Callable[[Expr, Expr], None]) -> None:
    """Emit ``emit(piece, column)`` for the `count` columns from `first` on, which the row has."""
    vectors = count // LANES
    turn = next(size for size in range(min(vectors, _UNROLLED), 0, -1) if vectors % size == 0)
    with T.serial(0, vectors // turn) as i:
        for vector in range(turn):
            column = first + (i * turn + vector) * LANES
            emit(simd.keep(source.piece(column)), column)
