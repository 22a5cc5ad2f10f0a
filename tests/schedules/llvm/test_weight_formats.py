"""Kernels of linear layers with scales for groups of columns: int4, int8 and float8 weights against numpy."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from support.cpu_features import needs_bf16
from support.run_kernel import compile_kernel

from vamc_py.activation import Activation
from vamc_py.schedules.llvm.layout import pack_columns, pack_int4_rows, pack_rows
from vamc_py.schedules.llvm.linear import linear
from vamc_py.weights.formats import WeightFormat

Array = np.ndarray[Any, np.dtype[Any]]
SHAPES = ((130, 70), (7, 5), (65, 577), (256, 3000))
ROWS = (0, 1, 2, 3, 4, 7, 49)
FORMATS = (
    WeightFormat("int4", 32, scale="float16"),
    WeightFormat("int4", 128, zeros=True, scale="float16"),
    WeightFormat("int4", None, scale="float32"),
    WeightFormat("int8", 64, scale="float32"),
    WeightFormat("int8", 128, zeros=True, scale="float16"),
    WeightFormat("int8", None, zeros=True),
    WeightFormat("float8_e4m3fn", 128),
    WeightFormat("float8_e4m3fn", None),
)


def weight_of(form: WeightFormat, rows: int, columns: int, *, exact: bool) -> tuple[list[Array], Array]:
    """What a kernel takes for the weight, and the weight in float64; `exact`: scales are powers of two."""
    rng = np.random.default_rng(rows + columns)
    shape = rows, form.groups(columns)
    scale = (
        2.0 ** rng.integers(-9, -3, shape) if exact else rng.uniform(0.001, 0.02, shape) * rng.choice([-1, 1], shape)
    )
    scale = scale.astype(form.scale)
    zero = rng.integers(-9, 10, shape).astype(np.int8) if form.zeros else None
    if form.values == "float8_e4m3fn":
        bits = rng.integers(0, 256, (rows, columns)).astype(np.uint8)
        bits[bits & 0x7F == 0x7F] = 0x80  # codes of NaN
        values = bits.view(ml_dtypes.float8_e4m3fn)
    else:
        values = rng.integers(-(1 << form.bits - 1), 1 << form.bits - 1, (rows, columns)).astype(np.int8)
    packed = pack_int4_rows(values) if form.values == "int4" else pack_rows(values)
    numbers = [packed, pack_columns(scale), *([] if zero is None else [pack_columns(zero)])]
    group = form.group or columns
    spread = np.arange(columns) // group
    weight = values.astype(np.float64)
    if zero is not None:
        weight = weight - zero.astype(np.float64)[:, spread]
    return numbers, weight * scale.astype(np.float64)[:, spread]


@cache
def compiled(*shape: Any, **options: Any) -> Callable[..., None]:
    return compile_kernel(linear(*shape, **options))


def run(kernel: Callable[..., None], x: Array, *others: Array, features: int) -> Array:
    y = np.full((len(x), features), np.nan, np.float32)
    kernel(x, *others, y)
    return y


@pytest.mark.parametrize("form", FORMATS, ids=str)
@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_the_product_is_exact_where_float32_is(form: WeightFormat, rows: int, columns: int) -> None:
    """Activations are integers whose largest is 32512, so that their scale is 1, and weights' scales powers of two."""
    weight, exact = weight_of(form, rows, columns, exact=True)
    kernel = compiled(rows, columns, form)
    for n in ROWS:
        x = np.random.default_rng(n).integers(-9, 10, (n, columns)).astype(np.float32)
        x[:, :1] = 32512
        expected = x.astype(np.float64) @ exact.T
        got = run(kernel, x, *weight, features=rows)
        magnitudes = np.abs(x).astype(np.float64) @ np.abs(exact).T
        roundings = form.groups(columns) if form.dtype == "int8" else columns  # where float32 sums are rounded
        assert np.all(np.abs(got - expected) <= (2 + roundings) * 6e-8 * magnitudes), n


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_rows_do_not_depend_on_their_neighbours(form: WeightFormat) -> None:
    weight, exact = weight_of(form, 130, 577, exact=False)
    kernel = compiled(130, 577, form)
    x = np.random.default_rng(1).standard_normal((97, 577)).astype(np.float32)
    whole = run(kernel, x, *weight, features=130)
    for start, stop in ((0, 1), (1, 3), (3, 6), (20, 97)):
        assert np.array_equal(run(kernel, x[start:stop], *weight, features=130), whole[start:stop])
    expected = x.astype(np.float64) @ exact.T
    assert np.linalg.norm(whole - expected) < 1e-4 * np.linalg.norm(expected)


@needs_bf16
@pytest.mark.parametrize("form", FORMATS, ids=str)
@pytest.mark.parametrize(("rows", "columns"), [(65, 577), (64, 3002)])
def test_many_rows_meet_weights_that_are_rounded_to_bfloat16(form: WeightFormat, rows: int, columns: int) -> None:
    weight, exact = weight_of(form, rows, columns, exact=False)
    kernel = compiled(rows, columns, form, activation="bf16", wide_rows=3)
    for n in (3, 4, 5, 17, 130):
        x = np.random.default_rng(n).standard_normal((n, columns)).astype(np.float32)
        got = run(kernel, x, *weight, features=rows)
        if n <= 3:
            left, right, most = x.astype(np.float64), exact, 1e-4
        else:
            left = x.astype(ml_dtypes.bfloat16).astype(np.float64)
            right, most = exact.astype(np.float32).astype(ml_dtypes.bfloat16).astype(np.float64), 1e-5
        expected = left @ right.T
        assert np.linalg.norm(got - expected) <= most * np.linalg.norm(expected), n


def test_bias_and_residual_are_added() -> None:
    form = FORMATS[0]
    weight, exact = weight_of(form, 70, 96, exact=False)
    rng = np.random.default_rng(2)
    x, residual = (rng.standard_normal((5, width)).astype(np.float32) for width in (96, 70))
    bias = rng.standard_normal(70).astype(np.float32)
    got = run(compiled(70, 96, form, bias=True, residual=True), x, *weight, bias, residual, features=70)
    assert np.allclose(got, x.astype(np.float64) @ exact.T + bias + residual, atol=1e-3)


@pytest.mark.parametrize("activation", ["int8_g32", "int8_token"])
def test_int8_activations_meet_only_rows_of_one_scale(activation: Activation) -> None:
    with pytest.raises(ValueError, match="no kernel for"):
        linear(64, 64, FORMATS[0], activation=activation)
