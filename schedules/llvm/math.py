"""Functions on float32x16 built from the vector operations in `simd`: exp2 for the softmax, and SiLU."""

from __future__ import annotations

from tvm import tirx
from tvm.script import tirx as T

from vamc_py.schedules.llvm.simd import (
    Expr,
    exp,
    fma,
    fold,
    intrinsic,
    keep,
    maximum,
    scale_exponent,
    splat,
)

# 2**r on [-1/2, 1/2], lowest power first: minimax in relative error (2e-9) with 2**0 == 1 exactly.
_EXP2 = (
    1.0,
    0.6931472028552117,
    0.2402264791361551,
    0.05550332470783856,
    0.009618437358252,
    0.00133988745570,
    0.000153533620564,
)
# 2**r on [0, 1], lowest power first: minimax in relative error (9e-5) with 2**0 == 1 exactly.
_EXP2_ROUGH = (1.0, 0.69511679, 0.22764496, 0.07706707)


def lane_sum(x: Expr) -> Expr:
    """The sum of the lanes as a scalar. Emits bindings."""
    return fold(keep(x), lambda a, b: keep(a + b))


def lane_max(x: Expr) -> Expr:
    """The largest lane as a scalar. Emits bindings."""
    return fold(keep(x), lambda a, b: keep(maximum(keep(a), keep(b))))


def exp2(x: Expr) -> Expr:
    """2**x of a float32x16, within 1 unit in the last place for x <= 128; -inf gives 0, NaN stays. Emits bindings."""
    x = keep(x)
    x = keep(tirx.Select(splat(-160.0) > x, splat(-160.0), x))  # -inf - -inf would be NaN below
    whole = keep(T.nearbyint(x))
    rest = keep(x - whole)
    value = splat(_EXP2[-1])
    for coefficient in reversed(_EXP2[:-1]):
        value = fma(value, rest, splat(coefficient))
    return scale_exponent(value, whole)


def exp2_rough(x: Expr) -> Expr:
    """2**x of a float32x16 for x <= 0, within 1e-4 of itself, 2**0 == 1; AVX-512 only. Emits bindings.

    For weights that are rounded to bfloat16, whose rounding is 20 times as large. Half the instructions of `exp2`.
    """
    every_lane, current_rounding, down_to_whole = T.int16(-1), T.int32(4), T.int32(9)
    x = keep(x)
    name = "llvm.x86.avx512.mask.reduce.ps.512"  # x - floor(x)
    rest = keep(intrinsic(name, "float32x16", x, down_to_whole, splat(0.0), every_lane, current_rounding))
    value = splat(_EXP2_ROUGH[-1])
    for coefficient in reversed(_EXP2_ROUGH[:-1]):
        value = fma(value, rest, splat(coefficient))
    name = "llvm.x86.avx512.mask.scalef.ps.512"  # value * 2**floor(x)
    return intrinsic(name, "float32x16", value, x, splat(0.0), every_lane, current_rounding)


def silu(x: Expr) -> Expr:
    """x / (1 + e**-x) of a float32x16. Emits bindings."""
    x = keep(x)
    return x / (splat(1.0) + exp(splat(0.0) - x))
