"""The matrix kernels against numpy: the digit arithmetic exactly, float weights to rounding, rows independent of n."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tvm
from support.run_kernel import compile_kernel
from tvm import relax

from vamc_py._tvm import compile_module
from vamc_py.schedules.llvm.gemm import LinearTile
from vamc_py.schedules.llvm.layout import pack_rows, packed_dtype, packed_shape
from vamc_py.schedules.llvm.linear import default_tile, linear

Array = np.ndarray[Any, np.dtype[Any]]
FLOATS = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32}
ROWS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 17, 97, 99)  # around the register tile, its joins, the threads and the row block


def activations(n: int, k: int) -> Array:
    return np.random.default_rng(n).standard_normal((n, k)).astype(np.float32) * np.float32(3)


def int8_weight(n: int, k: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(k)
    weight = rng.integers(-128, 128, (n, k)).astype(np.int8)
    return weight, rng.uniform(0.001, 0.02, n).astype(np.float32)


def digits_times(x: Array, weight: Array, scale: Array) -> Array:
    """The definition of w8a16: 16-bit activations by row, exact integer sums of both digits, float32 epilogue."""
    largest = np.abs(x).max(axis=1, keepdims=True)
    inverse = np.divide(np.float32(32512), largest, out=np.zeros_like(largest), where=largest >= 1e-30)
    whole = np.rint(x.astype(np.float64) * inverse).astype(np.int64)
    low = ((whole + 128) & 255) - 128
    high = (whole - low) >> 8
    assert np.abs(high).max(initial=0) <= 127
    sums = [(digit @ weight.astype(np.int64).T).astype(np.float32).astype(np.float64) for digit in (low, high)]
    value = (sums[1] * 256 + sums[0]).astype(np.float32)
    return value * ((largest * np.float32(1 / 32512)) * scale)


@cache
def compiled(*shape: Any, **options: Any) -> Callable[..., None]:
    return compile_kernel(linear(*shape, **options))


def run(kernel: Callable[..., None], x: Array, *others: Array, features: int) -> Array:
    y = np.full((len(x), features), np.nan, np.float32)
    kernel(x, *others, y)
    return y


@pytest.mark.parametrize(("out_features", "in_features"), [(192, 64), (64, 128), (130, 70), (7, 5), (320, 1)])
def test_int8_is_the_digit_arithmetic_to_the_last_bit(out_features: int, in_features: int) -> None:
    weight, scale = int8_weight(out_features, in_features)
    kernel = compiled(out_features, in_features, "int8")
    for n in ROWS:
        x = activations(n, in_features)
        y = run(kernel, x, pack_rows(weight), scale, features=out_features)
        assert np.array_equal(y, digits_times(x, weight, scale)), n


def test_int8_loses_less_than_bfloat16_activations_would() -> None:
    weight, scale = int8_weight(128, 512)
    x = activations(20, 512)
    y = run(compiled(128, 512, "int8"), x, pack_rows(weight), scale, features=128)
    exact = x.astype(np.float64) @ (weight * scale[:, None].astype(np.float64)).T
    rounded = x.astype(ml_dtypes.bfloat16).astype(np.float64) @ (weight * scale[:, None].astype(np.float64)).T
    assert np.abs(y - exact).max() < np.abs(rounded - exact).max() / 50


def test_int8_sums_reach_their_extremes_without_overflow() -> None:
    columns = 20000
    weight = np.full((64, columns), -128, np.int8)
    x = np.full((1, columns), -5, np.float32)
    y = run(compiled(64, columns, "int8"), x, pack_rows(weight), np.ones(64, np.float32), features=64)
    assert np.allclose(y, 5.0 * 128 * columns, rtol=1e-6)


def test_int8_rows_of_zeros_tiny_and_not_finite_numbers() -> None:
    weight, scale = int8_weight(64, 64)
    x = activations(6, 64)
    x[0], x[1], x[2, 5], x[3, 6], x[4] = 0, 1e-35, np.nan, np.inf, x[4] * 1e30
    y = run(compiled(64, 64, "int8"), x, pack_rows(weight), scale, features=64)
    assert (y[:2] == 0).all()
    assert np.isnan(y[2]).all()
    assert not np.isfinite(y[3]).any()
    assert np.array_equal(y[4:], digits_times(x[4:], weight, scale))


@pytest.mark.parametrize("weight_type", ["int8", "float32"])
@pytest.mark.parametrize(
    ("out_features", "options"),
    [(64, {"bias": True}), (64, {"residual": True}), (100, {"bias": True, "residual": True})],
    ids=["bias", "residual", "both"],
)
def test_bias_and_residual_are_added(weight_type: Any, out_features: int, options: dict[str, bool]) -> None:
    rng = np.random.default_rng(1)
    bias = rng.standard_normal(out_features).astype(np.float32)
    weight, scale = int8_weight(out_features, 48)
    if weight_type == "int8":
        operands = (pack_rows(weight), scale)
    else:
        operands = (pack_rows((weight * scale[:, None]).astype(np.float32)),)
    plain, kernel = (compiled(out_features, 48, weight_type, **given) for given in ({}, options))
    for n in (1, 5):
        x = activations(n, 48)
        residual = rng.standard_normal((n, out_features)).astype(np.float32)
        added = [bias] * ("bias" in options) + [residual] * ("residual" in options)
        expected = run(plain, x, *operands, features=out_features) + sum(added)
        y = run(kernel, x, *operands, *added, features=out_features)
        assert np.allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("weight_type", list(FLOATS))
@pytest.mark.parametrize(("out_features", "in_features"), [(192, 64), (130, 33)])
def test_float_weights(weight_type: Any, out_features: int, in_features: int) -> None:
    rng = np.random.default_rng(2)
    weight = rng.standard_normal((out_features, in_features)).astype(FLOATS[weight_type])
    kernel = compiled(out_features, in_features, weight_type)
    for n in ROWS:
        x = activations(n, in_features)
        y = run(kernel, x, pack_rows(weight), features=out_features)
        assert np.allclose(y, x.astype(np.float64) @ weight.astype(np.float64).T, rtol=1e-5, atol=1e-4), n


def every_row_count() -> Iterator[tuple[int, int]]:
    """(start, end) of batches that together put each row into tiles of all sizes."""
    for size in (1, 2, 3, 4, 5, 7, 11, 64):
        yield from ((start, start + size) for start in range(0, 130 - size, 37))


@pytest.mark.parametrize("weight_type", ["int8", *FLOATS])
@pytest.mark.parametrize(("out_features", "in_features"), [(192, 100), (70, 64)])
def test_a_row_has_the_same_bits_however_it_is_batched(weight_type: Any, out_features: int, in_features: int) -> None:
    weight, scale = int8_weight(out_features, in_features)
    bias = scale * 100
    operands: tuple[Array, ...] = (pack_rows(weight), scale)
    if weight_type != "int8":
        operands = (pack_rows((weight * 0.01).astype(FLOATS[weight_type])),)
    kernel = compiled(out_features, in_features, weight_type, bias=True, residual=True)
    x, residual = activations(130, in_features), activations(130, out_features)
    whole = run(kernel, x, *operands, bias, residual, features=out_features)
    for start, end in every_row_count():
        part = run(kernel, x[start:end], *operands, bias, residual[start:end], features=out_features)
        assert np.array_equal(part, whole[start:end]), (start, end)


@pytest.mark.parametrize("weight_type", ["int8", "float16"])
@pytest.mark.parametrize(
    "changes",
    [
        {"vectors": 2, "rows": 4, "prefetch_tiles": 0},
        {"vectors": 1, "rows": 5, "row_block": 8, "ahead": 0},
        {"rows": 1, "streams": 4, "stream_rows": 2, "prefetch_tiles": 3},
    ],
    ids=str,
)
def test_the_tile_does_not_change_the_result(weight_type: Any, changes: dict[str, int]) -> None:
    weight, scale = int8_weight(384, 64)  # six panels: no multiple of four streams
    operands: tuple[Array, ...] = (pack_rows(weight), scale)
    if weight_type == "float16":
        operands = (pack_rows(weight.astype(np.float16)),)
    usual = compiled(384, 64, weight_type)
    kernel = compiled(384, 64, weight_type, tile=replace(default_tile(weight_type), **changes))
    for n in ROWS:
        x = activations(n, 64)
        y, expected = (run(each, x, *operands, features=384) for each in (kernel, usual))
        assert np.array_equal(y, expected), n


def test_a_relax_function_with_a_dynamic_number_of_rows_calls_two_of_them() -> None:
    weight, scale = int8_weight(64, 32)
    other = np.random.default_rng(0).standard_normal((32, 64)).astype(np.float32)
    builder = relax.BlockBuilder()
    n = tvm.tirx.Var("n", "int64")
    x = relax.Var("x", relax.TensorType((n, 32), "float32"))
    w = relax.Var("w", relax.TensorType(packed_shape(64, 32, "int8"), packed_dtype("int8")))
    s = relax.Var("s", relax.TensorType((64,), "float32"))
    v = relax.Var("v", relax.TensorType(packed_shape(32, 64, "float32"), "float32"))
    up = builder.add_func(linear(64, 32, "int8"), "linear")
    down = builder.add_func(linear(32, 64, "float32"), "linear")
    with builder.function("main", [x, w, s, v]):
        y = builder.emit(relax.op.call_tir(up, [x, w, s], relax.TensorType((n, 64), "float32")))
        builder.emit_func_output(builder.emit(relax.op.call_tir(down, [y, v], relax.TensorType((n, 32), "float32"))))
    machine = relax.VirtualMachine(compile_module(builder.get(), tvm.target.Target.from_device("cpu")), tvm.cpu())
    for rows in (1, 6):
        values = activations(rows, 32)
        arguments = (values, pack_rows(weight), scale, pack_rows(other))
        y = machine["main"](*(tvm.runtime.tensor(array) for array in arguments)).numpy()
        assert np.allclose(y, digits_times(values, weight, scale) @ other.T, rtol=1e-4, atol=1e-4)


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="0 to 64 features"):
        linear(64, 0, "int8")
    with pytest.raises(ValueError, match="more than 2,147,483,647 elements"):
        linear(1 << 20, 1 << 12, "int8")
    with pytest.raises(ValueError, match="vectors are 1, 2 or 4"):
        LinearTile(rows=4, vectors=3)
