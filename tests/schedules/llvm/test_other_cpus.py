"""Every kernel for CPUs without AVX-512 or VNNI: no other instructions in the assembly, right on random shapes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tvm
from support.attention_reference import Problem
from support.instruction_sets import CPUS, assembly, foreign_instructions, runnable
from support.run_kernel import as_arrays

from vamc_py._tvm import compile_module
from vamc_py.schedules.llvm import (
    attention,
    elementwise,
    embedding,
    linear,
    rms_norm,
    rotary,
    rows,
    simd,
    swiglu,
)
from vamc_py.schedules.llvm.instruction_set import InstructionSet
from vamc_py.schedules.llvm.layout import pack_rows
from vamc_py.target.description import target_for

Array = np.ndarray[Any, np.dtype[Any]]

ROWS = (0, 1, 2, 3, 4, 5, 6, 7, 11, 17, 99)
FLOATS = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32}
SHAPES = {"int8": (130, 70), "int8_long": (70, 1030), "float16": (130, 33), "bfloat16": (64, 70), "float32": (70, 19)}
"""[out, in] of the linear layers: odd ones, and one with more columns than 16-bit sums hold at once."""
HEADS, KV_HEADS, HEAD_DIM = 6, 2, 32


def linear_layer(name: str) -> Any:
    """The kernel of a layer in SHAPES."""
    dtype: Any = name.split("_")[0]
    return linear.linear(*SHAPES[name], dtype, residual=True)


KERNELS: dict[str, Callable[[], Any]] = {
    **{f"linear_{name}": partial(linear_layer, name) for name in SHAPES},
    "linear_groups": lambda: linear.linear(70, 101, "int8", activation="int8_g32"),
    "linear_gated": lambda: linear.linear(70, 101, "float32", prologue="swiglu"),
    "linear_normalized": lambda: linear.linear(70, 70, "float32", prologue="rms_norm", epsilon=1e-6),
    **{f"embedding_{dtype}": partial(embedding.embedding, 130, 37, dtype) for dtype in ("int8", *FLOATS)},
    "attention": lambda: attention.cached_attention(
        HEADS, KV_HEADS, HEAD_DIM, cache_dtype="float16", scale=0.2, fused_qkv=False
    ),
    "rms_norm": lambda: rms_norm.rms_norm(70, 1e-6),
    "swiglu": lambda: swiglu.swiglu(70, True),
    "rotary": lambda: rotary.rotary(3, 48),
    "rotary_angles": lambda: rotary.rotary_angles(48),
    "select_rows": lambda: rows.select_rows(37),
    "add": lambda: elementwise.add(37),
}


@cache
def built(cpu: str) -> Any:
    """One module with all kernels for a CPU."""
    target = target_for(cpu, "int8")
    with simd.using(target.instruction_set):
        functions = {name: make().with_attr("global_symbol", name) for name, make in KERNELS.items()}
    return compile_module(tvm.IRModule(functions), target.tvm_target())


@pytest.fixture(params=CPUS)
def kernel(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """``kernel(name)``: a kernel as a function of arrays, for a CPU that this machine can stand for."""
    runnable(request.param)
    return lambda name: as_arrays(built(request.param)[name])


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def unfilled(*shape: int) -> Array:
    """An output in which an element that the kernel forgot is NaN."""
    return np.full(shape, np.nan, np.float32)


@pytest.mark.parametrize("cpu", CPUS)
def test_the_assembly_has_the_cpus_instructions_alone(cpu: str) -> None:
    text, target = assembly(built(cpu)), target_for(cpu, "int8")
    assert not foreign_instructions(text, target)
    assert ("vpdpbusd" in text) == bool(target.instruction_set.vnni)
    assert ("%zmm" in text) == target.instruction_set.avx512
    assert "%ymm" in text
    assert "vfmadd" in text
    assert "vcvtph2ps" in text
    assert ("vpmaddwd" in text) == (target.instruction_set.vnni is None)


def digits_times(x: Array, weight: Array, scale: Array) -> Array:
    """w8a16 as the kernels for AVX-512 compute it, to the last bit: both digits' sums exact, then float32."""
    largest = np.abs(x).max(axis=1, keepdims=True)
    inverse = np.divide(np.float32(32512), largest, out=np.zeros_like(largest), where=largest >= 1e-30)
    whole = np.rint(x.astype(np.float64) * inverse).astype(np.int64)
    total = (whole @ weight.astype(np.int64).T).astype(np.float32)
    return total * ((largest * np.float32(1 / 32512)) * scale)


@pytest.mark.parametrize("name", ["int8", "int8_long"])
def test_int8_layers_give_the_bits_of_vnni(kernel: Any, name: str) -> None:
    (out, features), random = SHAPES[name], np.random.default_rng(1)
    weight = random.integers(-128, 128, (out, features)).astype(np.int8)
    scale = random.uniform(0.001, 0.02, out).astype(np.float32)
    run = kernel(f"linear_{name}")
    for n in ROWS:
        x, residual, y = normal(n, features, seed=2), np.zeros((n, out), np.float32), unfilled(n, out)
        x[: n // 3] = -5  # every product of a sum has one sign: it is as large as it can be
        run(x, pack_rows(weight), scale, residual, y)
        assert np.array_equal(y, digits_times(x, weight, scale)), n
        residual[:] = normal(n, out, seed=3)
        expected = y + residual
        run(x, pack_rows(weight), scale, residual, y)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_int8_layers_reach_their_extremes_without_overflow(kernel: Any) -> None:
    out, features = SHAPES["int8_long"]
    run, y = kernel("linear_int8_long"), unfilled(1, out)
    weight, x = np.full((out, features), -128, np.int8), np.full((1, features), -5, np.float32)
    run(x, pack_rows(weight), np.ones(out, np.float32), np.zeros((1, out), np.float32), y)
    np.testing.assert_allclose(y, 5.0 * 128 * features, rtol=1e-6)


def test_int8_rows_of_zeros_tiny_and_not_finite_numbers(kernel: Any) -> None:
    (out, features), random = SHAPES["int8"], np.random.default_rng(1)
    weight = random.integers(-128, 128, (out, features)).astype(np.int8)
    x, y = normal(6, features), unfilled(6, out)
    x[0], x[1], x[2, 5], x[3, 6], x[4] = 0, 1e-35, np.nan, np.inf, x[4] * 1e30
    scale = np.full(out, 0.01, np.float32)
    kernel("linear_int8")(x, pack_rows(weight), scale, np.zeros((6, out), np.float32), y)
    assert (y[:2] == 0).all()
    assert np.isnan(y[2]).all()
    assert not np.isfinite(y[3]).any()
    assert np.array_equal(y[4:], digits_times(x[4:], weight, scale))


def test_int8_activations_by_group_give_the_bits_of_vnni(kernel: Any) -> None:
    random, run = np.random.default_rng(1), kernel("linear_groups")
    weight = random.integers(-128, 128, (70, 101)).astype(np.int8)
    scale = random.uniform(0.001, 0.02, 70).astype(np.float32)
    for n in ROWS:
        x, y, total = normal(n, 101, seed=2), unfilled(n, 70), np.zeros((n, 70), np.float32)
        run(x, pack_rows(weight), scale, y)
        for first in range(0, 101, 32):
            piece, part = x[:, first : first + 32], weight[:, first : first + 32].astype(np.int64)
            largest = np.abs(piece).max(axis=1, keepdims=True)
            sums = (np.rint(piece.astype(np.float64) * (np.float32(127) / largest)).astype(np.int64) @ part.T).astype(
                "f4"
            )
            total = (sums.astype(np.float64) * (largest * np.float32(1 / 127)) + total).astype(np.float32)
        assert np.array_equal(y, total * scale), n


def test_layers_read_normalized_and_gated_rows(kernel: Any) -> None:
    for n in ROWS:
        x, w, norm, y = normal(n, 202), normal(70, 101, seed=1), normal(70, seed=2), unfilled(n, 70)
        kernel("linear_gated")(x, pack_rows(w), y)
        gate, up = x[:, :101].astype(np.float64), x[:, 101:]
        np.testing.assert_allclose(y, gate / (1 + np.exp(-gate)) * up @ w.T.astype(np.float64), rtol=1e-4, atol=1e-4)
        x, w = normal(n, 70), normal(70, 70, seed=1)
        kernel("linear_normalized")(x, pack_rows(w), norm, y)
        wide = x.astype(np.float64)
        rows = wide / np.sqrt((wide**2).mean(1, keepdims=True) + 1e-6) * norm
        np.testing.assert_allclose(y, rows @ w.T.astype(np.float64), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", list(FLOATS))
def test_float_layers(kernel: Any, name: str) -> None:
    out, features = SHAPES[name]
    weight = normal(out, features, seed=1).astype(FLOATS[name])
    run = kernel(f"linear_{name}")
    for n in ROWS:
        x, residual, y = normal(n, features, seed=2), normal(n, out, seed=3), unfilled(n, out)
        run(x, pack_rows(weight), residual, y)
        expected = x.astype(np.float64) @ weight.astype(np.float64).T + residual
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", ["int8", "int8_long", "float16"])
def test_a_row_has_the_same_bits_however_it_is_batched(kernel: Any, name: str) -> None:
    (out, features), random = SHAPES[name], np.random.default_rng(1)
    weight = random.integers(-128, 128, (out, features)).astype(np.int8)
    scales = (np.full(out, 0.01, np.float32),) if name.startswith("int8") else ()
    packed = pack_rows(weight if scales else weight.astype(FLOATS[name]))
    run, x, residual, whole = kernel(f"linear_{name}"), normal(23, features), normal(23, out), unfilled(23, out)
    run(x, packed, *scales, residual, whole)
    for first, end in ((0, 1), (3, 5), (5, 8), (8, 12), (12, 17), (17, 23), (6, 23)):
        y = unfilled(end - first, out)
        run(x[first:end].copy(), packed, *scales, residual[first:end].copy(), y)
        assert np.array_equal(y, whole[first:end])


@pytest.mark.parametrize("dtype", ["int8", *FLOATS])
def test_embeddings(kernel: Any, dtype: str) -> None:
    random = np.random.default_rng(1)
    table = random.integers(-128, 128, (130, 37)).astype(np.int8)
    scale = random.uniform(0.001, 0.02, 130).astype(np.float32)
    expected = table.astype(np.float32) * scale[:, None] if dtype == "int8" else table.astype(np.float32)
    for n in ROWS:
        ids, y = random.integers(0, 130, n).astype(np.int32), unfilled(n, 37)
        packed = pack_rows(table if dtype == "int8" else table.astype(FLOATS[dtype]))
        kernel(f"embedding_{dtype}")(ids, packed, *([scale] if dtype == "int8" else []), y)
        assert np.array_equal(y, expected[ids])


@pytest.mark.parametrize(
    "runs",
    [[], [(0, 37, 1)], [(1, 300, 1), (0, 5, 1)], [(0, 40, 33)], [(2, 0, 5), (0, 77, 1), (1, 3, 20)]],
    ids=["nothing", "token", "two", "prompt", "mixed"],
)
def test_attention(kernel: Any, runs: list[tuple[int, int, int]]) -> None:
    problem = Problem(HEADS, KV_HEADS, HEAD_DIM, 32, runs)
    k_cache, v_cache = problem.k_cache.copy(), problem.v_cache.copy()
    out = unfilled(problem.n, HEADS, HEAD_DIM)
    inputs = (problem.q, problem.k, problem.v, problem.positions, problem.slots, problem.pages)
    kernel("attention")(*inputs, k_cache, v_cache, out)
    expected_k, expected_v = problem.written(problem.k, problem.v)
    assert np.array_equal(k_cache, expected_k)
    assert np.array_equal(v_cache, expected_v)
    expected = problem.attention(problem.q, k_cache, v_cache, 0.2)
    np.testing.assert_allclose(out.reshape(expected.shape), expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("n", ROWS)
def test_norm_gate_rotation_rows_and_sum(kernel: Any, n: int) -> None:
    x, w, y = normal(n, 70) * 3, normal(70), unfilled(n, 70)
    kernel("rms_norm")(x, w, y)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(y, wide / np.sqrt((wide**2).mean(1, keepdims=True) + 1e-6) * w, rtol=1e-6, atol=1e-7)

    gates, y = normal(n, 140) * 8, unfilled(n, 70)
    kernel("swiglu")(gates, y)
    gate, up = gates[:, :70].astype(np.float64), gates[:, 70:]
    np.testing.assert_allclose(y, gate / (1 + np.exp(-gate)) * up, rtol=2e-6, atol=1e-10)

    positions, frequencies = np.arange(n, dtype=np.int32) * 97, (1e6 ** -(np.arange(24) / 24)).astype(np.float32)
    cos, sin = unfilled(n, 48), unfilled(n, 48)
    kernel("rotary_angles")(positions, frequencies, cos, sin)
    angles = np.tile((positions.astype(np.float32)[:, None] * frequencies).astype(np.float64), 2)
    np.testing.assert_allclose(cos, np.cos(angles), atol=2e-7)
    np.testing.assert_allclose(sin, np.sin(angles), atol=2e-7)

    heads, turned = normal(n, 3, 48), unfilled(n, 3, 48)
    kernel("rotary")(heads, cos, sin, turned)
    halves = np.concatenate([-heads[..., 24:], heads[..., :24]], axis=-1)
    np.testing.assert_allclose(turned, heads * cos[:, None] + halves * sin[:, None], rtol=1e-5, atol=1e-6)

    table, index, out = normal(23, 37), np.random.default_rng(n).integers(0, 23, n).astype(np.int32), unfilled(n, 37)
    kernel("select_rows")(table, index, out)
    assert np.array_equal(out, table[index])

    a, b, y = normal(n, 37), normal(n, 37, seed=1), unfilled(n, 37)
    kernel("add")(a, b, y)
    assert np.array_equal(y, a + b)


def test_instruction_sets_follow_from_the_features() -> None:
    avx512 = ("avx2", "avx512f", "avx512bw", "avx512dq", "avx512vl")
    assert InstructionSet.of(("avx2",)) == InstructionSet(False, None, False)
    assert InstructionSet.of(("avx2", "avxvnni")) == InstructionSet(False, "avx", False)
    assert InstructionSet.of(avx512) == InstructionSet(True, None, False)
    assert InstructionSet.of((*avx512, "avx512vnni", "avxvnni")) == InstructionSet(True, "avx512", False)
    assert InstructionSet.of((*avx512, "avx512vnni", "avx512bf16")) == InstructionSet(True, "avx512", True)
    assert InstructionSet.of(("avx2", "avx512f", "avx512vnni", "avx512bf16")) == InstructionSet(False, None, False)
    for wrong in ((False, "avx512", False), (False, None, True)):
        with pytest.raises(ValueError, match="need AVX-512 itself"):
            InstructionSet(*wrong)


def test_the_current_instruction_set_ends_with_the_block() -> None:
    usual = simd.current()
    assert usual == InstructionSet(True, "avx512", True)
    other = InstructionSet(False, None, False)

    def failing() -> None:
        with simd.using(other):
            assert simd.current() == other
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    assert simd.current() == usual
