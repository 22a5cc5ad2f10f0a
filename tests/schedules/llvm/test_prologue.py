"""A linear layer with a prologue gives the bits of the prologue's own kernel followed by the layer without it."""

from __future__ import annotations

from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from support.run_kernel import compile_kernel

from vamc_py.schedules.llvm.layout import pack_rows
from vamc_py.schedules.llvm.linear import linear
from vamc_py.schedules.llvm.rms_norm import rms_norm
from vamc_py.schedules.llvm.swiglu import swiglu

Array = np.ndarray[Any, np.dtype[Any]]
ROWS = (0, 1, 3, 16, 37)
EPSILON = 1e-3

compiled = cache(lambda *shape, **options: compile_kernel(linear(*shape, **options)))
own_kernel = cache(lambda name, n: compile_kernel(rms_norm(n, EPSILON) if name == "rms_norm" else swiglu(n, True)))


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def operands(out_features: int, in_features: int, weight: str) -> tuple[Array, ...]:
    integers = np.random.default_rng(3).integers(-128, 128, (out_features, in_features)).astype(np.int8)
    if weight == "int8":
        return pack_rows(integers), np.random.default_rng(4).uniform(0.001, 0.02, out_features).astype(np.float32)
    kind = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32}[weight]
    return (pack_rows((integers / np.float32(64)).astype(kind)),)


@pytest.mark.parametrize("weight", ["int8", "float16", "bfloat16", "float32"])
@pytest.mark.parametrize("in_features", [64, 45, 592])
@pytest.mark.parametrize("prologue", ["rms_norm", "swiglu"])
def test_a_prologue_is_its_kernel_and_then_the_layer(prologue: Any, in_features: int, weight: Any) -> None:
    features = 100
    norm = normal(1, in_features)
    own = own_kernel(prologue, in_features)
    plain = compiled(features, in_features, weight, residual=True)
    fused = compiled(features, in_features, weight, residual=True, prologue=prologue, epsilon=EPSILON)
    for n in ROWS:
        x = normal(n, n, in_features if prologue == "rms_norm" else 2 * in_features) * 3
        given = operands(features, in_features, weight)
        residual = normal(n + 1, n, features)
        middle, expected, y = np.empty((n, in_features), np.float32), *np.full((2, n, features), np.nan, np.float32)
        own(x, *([norm] if prologue == "rms_norm" else []), middle)
        plain(middle, *given, residual, expected)
        fused(x, *given, residual, *([norm] if prologue == "rms_norm" else []), y)
        assert np.array_equal(y, expected), n


@pytest.mark.parametrize("weight", ["int8", "float32"])
def test_a_row_of_nan_spoils_no_other_row(weight: Any) -> None:
    kernel = compiled(100, 45, weight, residual=True, prologue="rms_norm", epsilon=EPSILON)
    x, residual, norm = normal(0, 20, 45), normal(1, 20, 100), normal(2, 45)
    y, expected = np.full((2, 20, 100), np.nan, np.float32)
    kernel(x, *operands(100, 45, weight), residual, norm, expected)
    x[7, 44] = np.nan
    kernel(x, *operands(100, 45, weight), residual, norm, y)
    assert np.isnan(y[7]).all()
    assert np.array_equal(np.delete(y, 7, 0), np.delete(expected, 7, 0))
