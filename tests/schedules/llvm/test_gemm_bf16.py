"""Products of bfloat16 rows with int8 and bfloat16 weights: exact where sums are, else within float32's rounding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.cpu_features import needs_bf16
from support.run_kernel import compile_kernel
from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.tirx import PrimFunc
from tvm.tirx.script import builder as build

from vamc_py.schedules.llvm import gemm_bf16, simd
from vamc_py.schedules.llvm.bfloat_weights import Bfloat16Weights, Int8Weights
from vamc_py.schedules.llvm.gemm import LinearTile, Output
from vamc_py.schedules.llvm.gemm_bf16 import TILE, emit_bf16
from vamc_py.schedules.llvm.layout import pack_rows, packed_dtype, packed_shape
from vamc_py.schedules.llvm.linear import linear
from vamc_py.schedules.llvm.prologue import Prologue, row_source

Array = np.ndarray[Any, np.dtype[Any]]

TYPES = ("int8", "bfloat16")
SHAPES = ((192, 64), (130, 70), (7, 5), (65, 1), (64, 131))


def product(
    out_features: int,
    in_features: int,
    weight_type: str,
    *,
    tile: LinearTile = TILE,
    prologue: Prologue = "none",
    added: bool = False,
) -> PrimFunc:
    """x, packed weight, scale (int8), bias and residual (`added`), norm (rms_norm), y."""
    with IRBuilder() as module, build.prim_func(private=True, s_tir=True):
        build.func_name("product")
        build.func_attr({"tirx.noalias": True})
        n = T.int32()

        def argument(name: str, *shape: Any, dtype: str = "float32") -> Any:
            return build.arg(name, build.buffer(shape, dtype))

        x = argument("x", n, in_features * (2 if prologue == "swiglu" else 1))
        shape = packed_shape(out_features, in_features, weight_type)
        weight = argument("weight", *shape, dtype=packed_dtype(weight_type))
        scale = argument("scale", out_features) if weight_type == "int8" else None
        bias = argument("bias", out_features) if added else None
        residual = argument("residual", n, out_features) if added else None
        norm = argument("norm", in_features) if prologue == "rms_norm" else None
        output = Output(argument("y", n, out_features), out_features, scale, bias, residual)
        weights = (Int8Weights if weight_type == "int8" else Bfloat16Weights)(weight, in_features)
        emit_bf16(row_source(prologue, x, in_features, norm, 1e-6), weights, output, n, tile)
    return module.get()


@cache
def compiled(*shape: Any, **options: Any) -> Callable[..., None]:
    return compile_kernel(product(*shape, **options))


def run(kernel: Callable[..., None], x: Array, *others: Array, features: int) -> Array:
    y = np.full((len(x), features), np.nan, np.float32)
    kernel(x, *others, y)
    return y


def random_rows(n: int, k: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((n, k)).astype(np.float32)


def operands(out_features: int, in_features: int, weight_type: str) -> tuple[tuple[Array, ...], Array]:
    """What the kernel takes, and the weight in float64."""
    rng = np.random.default_rng(in_features)
    weight = rng.integers(-128, 128, (out_features, in_features)).astype(np.int8)
    if weight_type == "int8":
        scale = rng.uniform(0.001, 0.02, out_features).astype(np.float32)
        return (pack_rows(weight), scale), weight * scale[:, None].astype(np.float64)
    floats = (weight * 0.01).astype(ml_dtypes.bfloat16)
    return (pack_rows(floats),), floats.astype(np.float64)


def rounded(x: Array) -> Array:
    return x.astype(ml_dtypes.bfloat16).astype(np.float64)


def assert_is_product(y: Array, x: Array, weight: Array) -> None:
    """Within what so many float32 sums may round."""
    bound = np.abs(rounded(x)) @ np.abs(weight).T * (x.shape[1] + 3) * 2.0**-24
    assert (np.abs(y - rounded(x) @ weight.T) <= bound).all()


@needs_bf16
@pytest.mark.parametrize("weight_type", TYPES)
@pytest.mark.parametrize(("out_features", "in_features"), SHAPES)
@settings(max_examples=10, deadline=None)
@given(n=st.integers(0, 80), seed=st.integers(0, 1000), exponent=st.integers(-20, 20))
def test_products(weight_type: str, out_features: int, in_features: int, n: int, seed: int, exponent: int) -> None:
    given_operands, weight = operands(out_features, in_features, weight_type)
    x = random_rows(n, in_features, seed) * np.float32(2.0**exponent)
    y = run(compiled(out_features, in_features, weight_type), x, *given_operands, features=out_features)
    assert_is_product(y, x, weight)


@needs_bf16
def test_every_int8_weight_is_exact() -> None:
    weight = np.arange(-128, 128, dtype=np.int8).reshape(64, 4)[:, [2, 0, 3, 1]]
    x = np.eye(4, dtype=np.float32)
    y = run(compiled(64, 4, "int8"), x, pack_rows(weight), np.ones(64, np.float32), features=64)
    assert np.array_equal(y, weight.T)


@needs_bf16
def test_sums_of_whole_numbers_are_exact() -> None:
    given_operands, weight = operands(130, 70, "int8")
    x = np.random.default_rng(1).integers(-256, 257, (9, 70)).astype(np.float32)  # whole in bfloat16, sums below 2**24
    scale = given_operands[1]
    y = run(compiled(130, 70, "int8"), x, *given_operands, features=130)
    assert np.array_equal(y, (x @ np.rint(weight / scale[:, None]).T).astype(np.float32) * scale)


@needs_bf16
@pytest.mark.parametrize("weight_type", TYPES)
def test_a_row_has_the_same_bits_however_it_is_batched(weight_type: str) -> None:
    given_operands, _ = operands(130, 70, weight_type)
    kernel = compiled(130, 70, weight_type, tile=replace(TILE, row_block=40))
    x = random_rows(130, 70)
    whole = run(kernel, x, *given_operands, features=130)
    for size in (1, 2, 3, 4, 5, 6, 7, 11, 40, 41, 80):
        for start in range(0, 130 - size, 37):
            part = run(kernel, x[start : start + size], *given_operands, features=130)
            assert np.array_equal(part, whole[start : start + size]), (start, size)


@needs_bf16
@pytest.mark.parametrize("weight_type", TYPES)
@pytest.mark.parametrize(
    "changes",
    [
        {"vectors": 2, "rows": 9, "prefetch_tiles": 0},
        {"vectors": 1, "rows": 4, "row_block": 8, "prefetch_tiles": 3},
        {"rows": 1, "row_block": 1, "prefetch_tiles": 9},
    ],
    ids=str,
)
def test_the_tile_does_not_change_the_result(weight_type: str, changes: dict[str, int]) -> None:
    given_operands, _ = operands(192, 64, weight_type)
    kernel = compiled(192, 64, weight_type, tile=replace(TILE, **changes))
    for n in (1, 5, 9, 26):
        x = random_rows(n, 64)
        y, expected = (run(each, x, *given_operands, features=192) for each in (kernel, compiled(192, 64, weight_type)))
        assert np.array_equal(y, expected), n


@needs_bf16
@pytest.mark.parametrize("weight_type", TYPES)
@pytest.mark.parametrize(("in_features", "steps"), [(70, 7), (64, 4), (131, 32)])
def test_a_panel_in_parts_gives_the_same_bits(
    weight_type: str, in_features: int, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_operands, _ = operands(70, in_features, weight_type)
    whole = compiled(70, in_features, weight_type)
    monkeypatch.setattr(gemm_bf16, "MOST_STEPS", steps)
    kernel = compile_kernel(product(70, in_features, weight_type, tile=replace(TILE, row_block=20)))
    for n in (1, 6, 7, 21, 33):
        x = random_rows(n, in_features)
        y, expected = (run(each, x, *given_operands, features=70) for each in (kernel, whole))
        assert np.array_equal(y, expected), n


@needs_bf16
@pytest.mark.parametrize("weight_type", TYPES)
@pytest.mark.parametrize("prologue", ["rms_norm", "swiglu"])
def test_prologues(weight_type: str, prologue: Prologue) -> None:
    columns = 70
    given_operands, weight = operands(130, columns, weight_type)
    x = random_rows(27, columns * (2 if prologue == "swiglu" else 1))
    norm = np.random.default_rng(2).uniform(0.5, 2, columns).astype(np.float32)
    exact = x.astype(np.float64)
    if prologue == "rms_norm":
        read = exact / np.sqrt((exact**2).mean(axis=1, keepdims=True) + 1e-6) * norm
    else:
        read = exact[:, :columns] / (1 + np.exp(-exact[:, :columns])) * exact[:, columns:]
    kernel = compiled(130, columns, weight_type, prologue=prologue)
    y = run(kernel, x, *given_operands, *([norm] if prologue == "rms_norm" else []), features=130)
    # An error of 2**-23 before rounding may move a value by a step of bfloat16; few are so near to a half.
    error = np.abs(y - rounded(read.astype(np.float32)) @ weight.T)
    assert (error <= np.abs(read) @ np.abs(weight).T * 2.0**-9).all()
    assert np.median(error) < 1e-5


@needs_bf16
@pytest.mark.parametrize("weight_type", TYPES)
@pytest.mark.parametrize("out_features", [64, 100])
def test_bias_and_residual_are_added(weight_type: str, out_features: int) -> None:
    given_operands, _ = operands(out_features, 48, weight_type)
    bias, residual = random_rows(1, out_features, 1)[0], random_rows(27, out_features, 2)
    x = random_rows(27, 48)
    plain = run(compiled(out_features, 48, weight_type), x, *given_operands, features=out_features)
    kernel = compiled(out_features, 48, weight_type, added=True)
    y = run(kernel, x, *given_operands, bias, residual, features=out_features)
    assert np.allclose(y, plain + bias + residual, rtol=1e-5, atol=1e-5)


@needs_bf16
def test_rows_of_zeros_tiny_large_and_not_finite_numbers() -> None:
    given_operands, weight = operands(64, 70, "int8")
    x = random_rows(7, 70)
    x[0], x[1], x[2, 5], x[3, 6], x[4] = 0, 1e-39, np.nan, np.inf, x[4] * 1e30
    y = run(compiled(64, 70, "int8"), x, *given_operands, features=64)
    assert (y[:2] == 0).all()
    assert np.isnan(y[2]).all()
    assert not np.isfinite(y[3]).any()
    assert_is_product(y[4:], x[4:], weight)


@needs_bf16
def test_a_linear_layer_uses_it_above_its_wide_rows() -> None:
    given_operands, _ = operands(130, 70, "int8")
    wide = compile_kernel(linear(130, 70, "int8"))
    kernel = compile_kernel(linear(130, 70, "int8", activation="bf16", wide_rows=3))
    for n, same in ((1, wide), (3, wide), (4, compiled(130, 70, "int8")), (9, compiled(130, 70, "int8"))):
        x = random_rows(n, 70)
        y, expected = (run(each, x, *given_operands, features=130) for each in (kernel, same))
        assert np.array_equal(y, expected), n


def test_it_is_refused_without_the_instructions() -> None:
    instructions = simd.InstructionSet(avx512=True, vnni="avx512", bf16=False)
    with simd.using(instructions), pytest.raises(ValueError, match="need AVX512-BF16"):
        product(64, 64, "int8")
