"""The vector helpers against numpy, over their whole range."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from support.run_kernel import compile_kernel
from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as build

from vamc_py.schedules.llvm import simd

Array = np.ndarray[Any, np.dtype[Any]]


def map_vectors(function: Callable[[Any], Any], x: Array, result: str = "float32", lanes: int = 16) -> Array:
    """`function` of each row (16 elements) of x; it gives a vector of `lanes` elements, or a scalar for 1."""
    with IRBuilder() as module, build.prim_func(s_tir=True):
        build.func_name("main")
        build.func_attr({"tirx.noalias": True})
        n = T.int32()
        source = build.arg("x", build.buffer((n, 16), x.dtype.name))
        target = build.arg("y", build.buffer((n, lanes), result))
        with T.serial(0, n) as i:
            value = function(simd.load(source, i, 0))
            if lanes == 1:
                T.buffer_store(target, value, [i, 0])
            else:
                simd.store(target, value, i, 0)
    y = np.zeros((len(x), lanes), result)
    compile_kernel(module.get())(x, y)
    return y


def test_exp_over_its_whole_range() -> None:
    x = np.linspace(-110, 95, 1 << 18).astype(np.float32).reshape(-1, 16)
    x[0, :3] = np.nan, np.inf, -np.inf
    y = map_vectors(simd.exp, x)
    with np.errstate(over="ignore", under="ignore"):
        exact = np.exp(x.astype(np.float64))
    usual = (x > -87) & (x < 88)
    assert np.abs(y[usual] / exact[usual] - 1).max() < 1.5 * 2.0**-23
    assert np.isnan(y[0, 0])
    assert y[0, 1] == np.inf
    assert y[0, 2] == 0
    assert (y[x < -104.1] == 0).all()
    assert (y[x > 89] == np.inf).all()
    denormal = (x < -87.4) & (x > -103)
    assert np.allclose(y[denormal], exact[denormal], rtol=0, atol=2e-45)


@pytest.mark.parametrize(("fold", "reduce"), [(simd.fold_sum, np.sum), (simd.fold_max, np.max)])
@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_folding(fold: Any, reduce: Any, dtype: str) -> None:
    x = np.random.default_rng(0).integers(-1000, 1000, (50, 16)).astype(dtype)
    y = map_vectors(lambda vector: fold(vector, dtype), x, dtype, lanes=1)
    assert np.array_equal(y[:, 0], reduce(x, axis=1))


def test_fma_rounds_once() -> None:
    x = np.full((1, 16), 1 + 2.0**-12, np.float32)
    y = map_vectors(lambda v: simd.fma(v, v, simd.splat(-1.0)), x)
    assert (y == np.float32((1 + 2.0**-12) ** 2 - 1)).all()


def test_bfloat16_bits_widen_exactly() -> None:
    x = np.random.default_rng(0).standard_normal((9, 16)).astype(ml_dtypes.bfloat16)
    assert np.array_equal(map_vectors(simd.widen_bfloat16, x.view(np.uint16)), x.astype(np.float32))


def test_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match="too large for the stack"):
        simd.scratch((16, 16), "int32")
    with pytest.raises(TypeError, match="splat takes a float"):
        simd.splat(1)
