"""Quantizing numbers of a row by one scale, as the kernels of int8 weights do it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from tvm.script import tirx as T

from . import simd
from .simd import LANES, Expr, keep

TINY = 1e-30
"""Numbers that are all below this are zeros: their scale's inverse would overflow."""

Each: TypeAlias = Callable[[Callable[[Expr, Expr | int], None]], None]
"""Goes through vectors of a row: calls what it is given with each piece and the column that it starts at."""


def largest_of(each: Each) -> Expr:
    """max|x| over the vectors that `each` goes through, float32; NaN counts as more than infinity. Emits statements."""
    largest = simd.scratch((LANES,), "uint32")
    simd.store(largest, T.broadcast(T.uint32(0), LANES), 0)

    def compare(piece: Expr, _column: Expr | int) -> None:
        # As integers, whose order is the same.
        magnitude = simd.bits(piece, "uint32x16") & T.broadcast(T.uint32(0x7FFFFFFF), LANES)
        simd.store(largest, T.max(simd.load(largest, 0), magnitude), 0)

    each(compare)
    return keep(simd.bits(simd.fold(simd.load(largest, 0), T.max, "uint32"), "float32"))


def scale_and_inverse(largest: Expr, most: int) -> tuple[Expr, Expr]:
    """The scale that takes `largest` to the integer `most`, and what numbers are multiplied by; zeros below TINY.

    NaN and infinity in `largest` become NaN or infinity in the scale. Emits bindings.
    """
    zero = T.bind(largest < T.float32(TINY))
    inverse = keep(T.Select(zero, T.float32(0), T.float32(most) / largest))
    return T.Select(zero, T.float32(0), largest * T.float32(1 / most)), inverse


def rounded(piece: Expr, factor: Expr) -> Expr:
    """piece * factor, below 2**22, rounded once to an integer, half to even: float32x16 and a float32, as int32x16."""
    # Adding 1.5 * 2**23 rounds to an integer and leaves it in the low bits of the float.
    shifted = simd.bits(simd.fma(piece, simd.splat(factor), simd.splat(12582912.0)), "int32x16")
    return shifted - T.broadcast(T.int32(0x4B400000), LANES)
