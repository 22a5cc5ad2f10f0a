"""int8 activations by row and group of columns against numpy, to the last bit, on odd shapes and around the tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from support.run_kernel import compile_kernel

from vamc_py.activation import columns_per_scale
from vamc_py.schedules.llvm.layout import pack_rows
from vamc_py.schedules.llvm.linear import default_tile, linear
from vamc_py.schedules.llvm.rms_norm import rms_norm
from vamc_py.schedules.llvm.swiglu import swiglu

Array = np.ndarray[Any, np.dtype[Any]]
ROWS = (0, 1, 2, 5, 6, 7, 12, 13, 16, 19, 95, 96, 97, 193)
"""Around the register tile, the number of rows that wakes the threads, and the block of rows."""
SHAPES = [
    (192, 256, "int8_g128"),
    (130, 576, "int8_g128"),  # a short last group
    (70, 1301, "int8_g128"),  # several parts, the last one short, and columns that are no multiple of four
    (64, 1100, "int8_g64"),
    (70, 101, "int8_g32"),
    (7, 5, "int8_g32"),  # fewer columns than a group
    (64, 77, "int8_token"),
    (100, 1500, "int8_token"),
]


def activations(n: int, k: int) -> Array:
    return np.random.default_rng(n).standard_normal((n, k)).astype(np.float32) * np.float32(3)


def operands(out_features: int, in_features: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(in_features)
    weight = rng.integers(-128, 128, (out_features, in_features)).astype(np.int8)
    return weight, rng.uniform(0.001, 0.02, out_features).astype(np.float32)


def groups_times(x: Array, weight: Array, scale: Array, activation: Any) -> Array:
    """The definition: integers by group, exact sums, one float32 fma a group in the order of the columns, the scale."""
    group = columns_per_scale(activation, x.shape[1])
    assert group is not None
    total = np.zeros((len(x), len(weight)), np.float32)
    for first in range(0, x.shape[1], group):
        piece, part = x[:, first : first + group], weight[:, first : first + group].astype(np.int64)
        largest = np.abs(piece).max(axis=1, keepdims=True)
        there = largest >= np.float32(1e-30)
        inverse = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=there)
        whole = np.rint(piece.astype(np.float64) * inverse).astype(np.int64)
        assert np.abs(whole).max(initial=0) <= 127
        row_scale = np.where(there, largest * np.float32(1 / 127), np.float32(0))
        sums = (whole @ part.T).astype(np.float32)
        total = (sums.astype(np.float64) * row_scale + total).astype(np.float32)
    return total * scale


@cache
def compiled(*shape: Any, **options: Any) -> Callable[..., None]:
    return compile_kernel(linear(*shape, **options))


def run(kernel: Callable[..., None], x: Array, *others: Array, features: int) -> Array:
    y = np.full((len(x), features), np.nan, np.float32)
    kernel(x, *others, y)
    return y


@pytest.mark.parametrize(("out_features", "in_features", "activation"), SHAPES)
def test_it_is_the_arithmetic_of_the_groups_to_the_last_bit(
    out_features: int, in_features: int, activation: Any
) -> None:
    weight, scale = operands(out_features, in_features)
    kernel = compiled(out_features, in_features, "int8", activation=activation)
    for n in ROWS:
        x = activations(n, in_features)
        y = run(kernel, x, pack_rows(weight), scale, features=out_features)
        assert np.array_equal(y, groups_times(x, weight, scale, activation)), n


@pytest.mark.parametrize("prologue", ["rms_norm", "swiglu"])
@pytest.mark.parametrize(("in_features", "activation"), [(576, "int8_g128"), (45, "int8_g32"), (300, "int8_token")])
def test_a_prologue_is_its_kernel_and_then_the_layer(in_features: int, activation: Any, prologue: Any) -> None:
    weight, scale = operands(100, in_features)
    norm = np.random.default_rng(7).standard_normal(in_features).astype(np.float32)
    own = compile_kernel(rms_norm(in_features, 1e-3) if prologue == "rms_norm" else swiglu(in_features, True))
    options = {"activation": activation, "bias": True, "residual": True}
    plain = compiled(100, in_features, "int8", **options)
    fused = compiled(100, in_features, "int8", **options, prologue=prologue, epsilon=1e-3)
    for n in (0, 1, 13, 40):
        x = activations(n, in_features if prologue == "rms_norm" else 2 * in_features)
        normed = [norm] if prologue == "rms_norm" else []
        added = scale * 9, activations(n, 100)
        middle = np.empty((n, in_features), np.float32)
        own(x, *normed, middle)
        expected = run(plain, middle, pack_rows(weight), scale, *added, features=100)
        y = run(fused, x, pack_rows(weight), scale, *added, *normed, features=100)
        assert np.array_equal(y, expected), n


@pytest.mark.parametrize("options", [{"bias": True}, {"residual": True}, {"bias": True, "residual": True}], ids=str)
def test_bias_and_residual_are_added(options: dict[str, bool]) -> None:
    weight, scale = operands(100, 200)
    bias = scale * 1000
    kernel = compiled(100, 200, "int8", activation="int8_g64", **options)
    for n in (1, 20):
        x, residual = activations(n, 200), activations(n + 1, 200)[:n, :100].copy()
        added = [bias] * ("bias" in options) + [residual] * ("residual" in options)
        y = run(kernel, x, pack_rows(weight), scale, *added, features=100)
        assert np.allclose(y, groups_times(x, weight, scale, "int8_g64") + sum(added), rtol=1e-5, atol=1e-4)


def batches(rows: int) -> Iterator[tuple[int, int]]:
    """(start, end) of batches that together put rows into tiles of all sizes."""
    for size in (1, 2, 3, 4, 5, 7, 11, 17, 64, 100):
        yield from ((start, start + size) for start in range(0, rows - size, 37))


@pytest.mark.parametrize(("in_features", "activation"), [(1100, "int8_g128"), (100, "int8_token")])
def test_a_row_has_the_same_bits_however_it_is_batched(in_features: int, activation: Any) -> None:
    weight, scale = operands(130, in_features)
    kernel = compiled(130, in_features, "int8", activation=activation, bias=True, residual=True)
    x, residual, bias = activations(210, in_features), activations(210, 130), scale * 100
    whole = run(kernel, x, pack_rows(weight), scale, bias, residual, features=130)
    for start, end in batches(210):
        part = run(kernel, x[start:end], pack_rows(weight), scale, bias, residual[start:end], features=130)
        assert np.array_equal(part, whole[start:end]), (start, end)


def test_up_to_wide_rows_the_activations_keep_16_bits() -> None:
    weight, scale = operands(130, 300)
    both = compiled(130, 300, "int8", activation="int8_g128", wide_rows=8)
    wide, grouped = compiled(130, 300, "int8"), compiled(130, 300, "int8", activation="int8_g128")
    for n in (0, 1, 7, 8, 9, 30):
        x = activations(n, 300)
        expected = run(wide if n <= 8 else grouped, x, pack_rows(weight), scale, features=130)
        assert np.array_equal(run(both, x, pack_rows(weight), scale, features=130), expected), n


@pytest.mark.parametrize("activation", ["int8_g32", "int8_token"])
def test_zeros_tiny_and_not_finite_numbers_stay_in_their_row(activation: Any) -> None:
    weight, scale = operands(64, 96)
    kernel = compiled(64, 96, "int8", activation=activation)
    x = activations(20, 96)
    x[0], x[1], x[2, 40], x[3, 41], x[4] = 0, 1e-35, np.nan, np.inf, x[4] * 1e30
    y = run(kernel, x, pack_rows(weight), scale, features=64)
    assert (y[:2] == 0).all()
    assert np.isnan(y[2]).all()
    assert not np.isfinite(y[3]).any()
    assert np.array_equal(y[4:], groups_times(x[4:], weight, scale, activation))


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": 12, "vectors": 2, "prefetch_tiles": 0},
        {"rows": 4, "vectors": 1, "row_block": 8, "part": 1},
        {"rows": 1, "prefetch_tiles": 5, "part": 256},
    ],
    ids=str,
)
def test_the_tile_does_not_change_the_result(changes: dict[str, int]) -> None:
    weight, scale = operands(130, 576)
    tile = replace(default_tile("int8", "int8_g128"), **changes)
    usual = compiled(130, 576, "int8", activation="int8_g128")
    kernel = compiled(130, 576, "int8", activation="int8_g128", tile=tile)
    for n in ROWS:
        x = activations(n, 576)
        y, expected = (run(each, x, pack_rows(weight), scale, features=130) for each in (kernel, usual))
        assert np.array_equal(y, expected), n


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="no kernel for float16 weights and activations int8_g128"):
        linear(64, 64, "float16", activation="int8_g128")
    with pytest.raises(ValueError, match="no kernel for int8 weights and activations int4"):
        linear(64, 64, "int8", activation="int4")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="an int8 layer of 200000 features overflows"):
        linear(64, 200000, "int8")
