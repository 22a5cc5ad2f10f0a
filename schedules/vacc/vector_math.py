"""What kernels of the vector unit share: sums and maxima of rows in a fixed order, and e**x."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm.script import tirx as T

from vamc_py.schedules.vacc.loops import LANES, Expr, lanes, named, scratch, serial


def fold_row(columns: Expr, value: Callable[[Expr], Expr], combine: Callable[[Expr, Expr], Expr], start: float) -> Expr:
    """``value(column)`` of all columns combined, float32. Emits statements.

    The order is that of a vector unit of 16 lanes: each lane takes every 16th column in ascending order, from `start`
    on, and then the upper half of the lanes goes to the lower one, four times.
    """
    partial = scratch(LANES, "float32", "partial")
    with lanes() as lane:
        T.buffer_store(partial, T.float32(start), [lane])
    with serial(columns // LANES, "vector") as vector, lanes() as lane:
        T.buffer_store(partial, combine(partial[lane], value(vector * LANES + lane)), [lane])
    with serial(columns % LANES, "lane") as lane:
        rest = value(columns // LANES * LANES + lane)
        T.buffer_store(partial, combine(partial[lane], rest), [lane])
    width = LANES
    while width > 1:
        width //= 2
        with serial(width, "lane") as lane:
            T.buffer_store(partial, combine(partial[lane], partial[lane + width]), [lane])
    return named("folded", T.bind(partial[0]))


def row_sum(columns: Expr, value: Callable[[Expr], Expr]) -> Expr:
    """The sum of the columns' values in the order of `fold_row`. Emits statements."""
    return fold_row(columns, value, lambda a, b: a + b, 0.0)


def row_max(columns: Expr, value: Callable[[Expr], Expr], least: float) -> Expr:
    """The largest value, or `least` where that is larger. Emits statements."""
    return fold_row(columns, value, T.max, least)


def rms_factor(columns: int, value: Callable[[Expr], Expr], eps: float) -> Expr:
    """1 / sqrt(mean of the columns' squares + eps), each step rounded to float32. Emits statements."""
    squares = row_sum(columns, lambda column: value(column) * value(column))
    return named("factor", T.bind(T.float32(1) / T.sqrt(squares / T.float32(columns) + T.float32(eps))))


_LOG2_E = 1.4426950408889634
_LN_2_HIGH, _LN_2_LOW = 0.693145751953125, 1.42860682030941723212e-6  # whole numbers times the first part are exact
_TO_WHOLE, _WHOLE_BITS = 12582912.0, 0x4B400000  # adding 1.5 * 2**23 leaves a whole number in the low bits


def exponential(x: Expr) -> Expr:
    """e**x of a float32, within 2 units in the last place; 0 below -104, infinity above 89, NaN stays.

    A Taylor polynomial of degree 7 on |x| <= ln 2 / 2, times a power of two.
    """
    x = T.max(T.float32(-104), T.min(T.float32(89), x))  # the constant first: NaN, which compares false, stays
    whole = T.nearbyint(x * T.float32(_LOG2_E))
    rest = (x - whole * T.float32(_LN_2_HIGH)) - whole * T.float32(_LN_2_LOW)
    value: Any = T.float32(1 / 5040)
    for factor in (720.0, 120.0, 24.0, 6.0, 2.0, 1.0, 1.0):
        value = value * rest + T.float32(1 / factor)
    # Two factors, each a normal number: one would overflow where the result is denormal or beyond 2**127.
    exponent = T.reinterpret("int32", whole + T.float32(_TO_WHOLE)) - T.int32(_WHOLE_BITS)
    half = T.shift_right(exponent, T.int32(1))
    return value * _power_of_two(half) * _power_of_two(exponent - half)


def _power_of_two(exponent: Expr) -> Expr:
    return T.reinterpret("float32", T.shift_left(exponent + T.int32(127), T.int32(23)))
