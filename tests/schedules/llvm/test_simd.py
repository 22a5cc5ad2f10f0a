"""The vector helpers against numpy, over their whole range, written for every instruction set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from support.instruction_sets import CPUS, runnable
from support.run_kernel import compile_kernel
from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as build

from vamc_py.schedules.llvm import simd
from vamc_py.target.description import TargetDescription

Array = np.ndarray[Any, np.dtype[Any]]


@pytest.fixture(params=["native", *CPUS])
def cpu(request: pytest.FixtureRequest) -> TargetDescription:
    """The CPU that the functions are written and compiled for."""
    return runnable(request.param)


def map_vectors(
    cpu: TargetDescription, function: Callable[..., Any], *x: Array, result: str = "float32", lanes: int = 16
) -> Array:
    """`function` of each row (one vector) of all x; it gives a vector of `lanes` elements, or a scalar for 1."""
    with simd.using(cpu.instruction_set), IRBuilder() as module, build.prim_func(s_tir=True):
        build.func_name("main")
        build.func_attr({"tirx.noalias": True})
        n = T.int32()
        sources = [build.arg(f"x{i}", build.buffer((n, part.shape[1]), part.dtype.name)) for i, part in enumerate(x)]
        target = build.arg("y", build.buffer((n, lanes), result))
        with T.serial(0, n) as i:
            value = function(*(simd.load(s, i, 0, count=part.shape[1]) for s, part in zip(sources, x, strict=True)))
            if lanes == 1:
                T.buffer_store(target, value, [i, 0])
            else:
                simd.store(target, value, i, 0, count=lanes)
    y = np.zeros((len(x[0]), lanes), result)
    compile_kernel(module.get(), cpu.tvm_target())(*x, y)
    return y


def test_exp_over_its_whole_range(cpu: TargetDescription) -> None:
    x = np.linspace(-110, 95, 1 << 18).astype(np.float32).reshape(-1, 16)
    x[0, :3] = np.nan, np.inf, -np.inf
    y = map_vectors(cpu, simd.exp, x)
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


def test_exponents_are_scaled_with_one_rounding(cpu: TargetDescription) -> None:
    exponents = np.arange(-252, 255)
    value = np.random.default_rng(0).uniform(0.5, 2, (len(exponents), 16)).astype(np.float32)
    value[3], value[4] = np.nan, 0
    exponent = np.broadcast_to(exponents[:, None], value.shape).astype(np.float32)
    exponent[3] = np.nan
    y = map_vectors(cpu, simd.scale_exponent, value, np.ascontiguousarray(exponent))
    with np.errstate(over="ignore", under="ignore"):
        expected = np.ldexp(value.astype(np.float64), exponents[:, None]).astype(np.float32)
    assert np.array_equal(y, expected, equal_nan=True)


@pytest.mark.parametrize(("fold", "reduce"), [(simd.fold_sum, np.sum), (simd.fold_max, np.max)])
@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_folding(cpu: TargetDescription, fold: Any, reduce: Any, dtype: str) -> None:
    x = np.random.default_rng(0).integers(-1000, 1000, (50, 16)).astype(dtype)
    y = map_vectors(cpu, lambda vector: fold(vector, dtype), x, result=dtype, lanes=1)
    assert np.array_equal(y[:, 0], reduce(x, axis=1))


def test_fma_rounds_once(cpu: TargetDescription) -> None:
    x = np.full((1, 16), 1 + 2.0**-12, np.float32)
    y = map_vectors(cpu, lambda v: simd.fma(v, v, simd.splat(-1.0)), x)
    assert (y == np.float32((1 + 2.0**-12) ** 2 - 1)).all()


def test_maximum_takes_the_second_where_either_is_nan(cpu: TargetDescription) -> None:
    numbers = np.array([-np.inf, -1, 0, 2, np.inf, np.nan], np.float32)
    a, b = (np.resize(part, (3, 16)) for part in (np.repeat(numbers, 6), np.tile(numbers, 6)))
    y = map_vectors(cpu, simd.maximum, a, b)
    assert np.array_equal(y, np.where(a > b, a, b), equal_nan=True)


def test_bfloat16_bits_widen_exactly(cpu: TargetDescription) -> None:
    x = np.random.default_rng(0).standard_normal((9, 16)).astype(ml_dtypes.bfloat16)
    assert np.array_equal(map_vectors(cpu, simd.widen_bfloat16, x.view(np.uint16)), x.astype(np.float32))


def test_float16_is_converted_to_and_from_by_the_processor(cpu: TargetDescription) -> None:
    x = np.random.default_rng(0).standard_normal((9, 16)).astype(np.float32) * np.float32(300)
    x[0, :4] = 1e-7, 7e4, np.inf, -0.0
    with np.errstate(over="ignore"):
        half = x.astype(np.float16)
    assert np.array_equal(map_vectors(cpu, lambda v: T.cast(v, "float16x16"), x, result="float16"), half)
    assert np.array_equal(map_vectors(cpu, lambda v: T.cast(v, "float32x16"), half), half.astype(np.float32))


def extreme_bytes(count: int) -> tuple[Array, Array]:
    """uint8 and int8 [count, 64], the first rows of the largest and smallest numbers only."""
    random = np.random.default_rng(0)
    unsigned = random.integers(0, 256, (count, 64)).astype(np.uint8)
    signed = random.integers(-128, 128, (count, 64)).astype(np.int8)
    unsigned[:4], signed[:2], signed[2:4] = 255, -128, 127
    return unsigned, signed


def test_the_dot_product_of_bytes_is_exact_and_wraps(cpu: TargetDescription) -> None:
    unsigned, signed = extreme_bytes(200)
    accumulator = np.random.default_rng(1).integers(-(2**31), 2**31, (200, 16)).astype(np.int32)
    accumulator[0], accumulator[2] = -(2**31), 2**31 - 1
    y = map_vectors(cpu, simd.dot_u8s8, accumulator, unsigned, signed, result="int32")
    products = (unsigned.astype(np.int64) * signed).reshape(200, 16, 4).sum(axis=2)
    assert np.array_equal(y, (accumulator + products).astype(np.int32))


def test_bytes_split_and_pairs_of_words_multiply(cpu: TargetDescription) -> None:
    unsigned, signed = extreme_bytes(50)
    for function, x, first in (
        (simd.even_unsigned_bytes, unsigned, 0),
        (simd.odd_unsigned_bytes, unsigned, 1),
        (simd.even_signed_bytes, signed, 0),
        (simd.odd_signed_bytes, signed, 1),
    ):
        y = map_vectors(cpu, function, x, result="int16", lanes=32)
        assert np.array_equal(y, x[:, first::2].astype(np.int16)), function
    a, b = np.random.default_rng(0).integers(-32768, 32768, (2, 50, 32)).astype(np.int16)
    y = map_vectors(cpu, simd.multiply_pairs, a, b, result="int32")
    assert np.array_equal(y, (a.astype(np.int64) * b).reshape(50, 16, 2).sum(axis=2).astype(np.int32))


def test_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match="too large for the stack"):
        simd.scratch((16, 16), "int32")
    with pytest.raises(TypeError, match="splat takes a float"):
        simd.splat(1)
