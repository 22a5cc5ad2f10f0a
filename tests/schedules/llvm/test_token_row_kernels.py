"""The small kernels over token rows against numpy in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm
from support.run_kernel import compile_kernel
from tvm.script import tirx as T

from vamc_py.schedules.llvm.elementwise import add
from vamc_py.schedules.llvm.math import exp2, silu
from vamc_py.schedules.llvm.rms_norm import rms_norm
from vamc_py.schedules.llvm.rotary import rotary, rotary_angles
from vamc_py.schedules.llvm.rows import gather_table, select_rows
from vamc_py.schedules.llvm.swiglu import swiglu

COUNTS = (0, 1, 17, 70)
"""Token counts: none, one, an odd one, and one that takes the parallel loop at the widths used here."""

Array = np.ndarray[Any, Any]


def normal(seed: int, *shape: int, scale: float = 1.0) -> Array:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def unfilled(*shape: int) -> Array:
    """An output in which an element that the kernel forgot is NaN."""
    return np.full(shape, np.nan, np.float32)


def lanewise(function: Any) -> Any:
    """A kernel that applies a function of float32x16 to x f32[n, 16]."""

    @T.prim_func(s_tir=True)
    def kernel(x_: T.handle, y_: T.handle) -> None:
        T.func_attr({"tirx.noalias": True})
        n = T.int64()
        x = T.match_buffer(x_, (n, 16), "float32")
        y = T.match_buffer(y_, (n, 16), "float32")
        for i in T.serial(n):
            y[i, T.ramp(0, 1, 16)] = function(x[i, T.ramp(0, 1, 16)])

    return kernel


def test_exp2_is_within_one_unit_in_the_last_place_and_right_at_the_ends() -> None:
    run = compile_kernel(lanewise(exp2))
    x = np.concatenate([np.linspace(-125, 127, 20000), np.linspace(-1, 1, 12000)]).astype(np.float32).reshape(-1, 16)
    y = unfilled(*x.shape)
    run(x, y)
    exact = np.exp2(x.astype(np.float64))
    assert np.max(np.abs(y - exact) / np.spacing(exact.astype(np.float32))) <= 1.0

    ends = np.array([-np.inf, -1e30, -200, -149, 0, -0.0, 128, 1, -1, np.nan, 3, -126, -140, -3, 10, 127], np.float32)[
        None
    ]
    y = unfilled(1, 16)
    run(ends, y)
    with np.errstate(over="ignore"):
        expected = np.exp2(ends)
    np.testing.assert_allclose(y, expected, rtol=2e-7, atol=1.5e-45)


def test_silu_is_finite_for_any_finite_argument() -> None:
    run = compile_kernel(lanewise(silu))
    x = np.array([[-3e38, -1000, -100, -89, -88, -20, -1, -1e-20, 0, 1e-20, 1, 20, 88, 89, 1000, 3e38]], np.float32)
    y = unfilled(1, 16)
    run(x, y)
    wide = x.astype(np.float64)
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(y, wide / (1 + np.exp(-wide)), rtol=1e-6, atol=1e-36)


@pytest.mark.parametrize("features", [16, 37, 576, 896])
def test_rms_norm(features: int) -> None:
    run = compile_kernel(rms_norm(features, 1e-6))
    w = normal(1, features)
    for n in COUNTS:
        x, y = normal(n, n, features, scale=3.0), unfilled(n, features)
        run(x, w, y)
        wide = x.astype(np.float64)
        expected = wide / np.sqrt(np.mean(wide**2, axis=1, keepdims=True) + 1e-6) * w
        np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-7)


def test_rms_norm_of_a_zero_row_is_zero() -> None:
    y = unfilled(1, 64)
    compile_kernel(rms_norm(64, 1e-6))(np.zeros((1, 64), np.float32), np.ones(64, np.float32), y)
    assert np.array_equal(y, np.zeros((1, 64), np.float32))


@pytest.mark.parametrize("features", [5, 48, 261])
@pytest.mark.parametrize("merged", [True, False])
def test_swiglu(features: int, merged: bool) -> None:
    run = compile_kernel(swiglu(features, merged))
    for n in COUNTS:
        gate, up, y = normal(n, n, features, scale=8.0), normal(n + 1, n, features), unfilled(n, features)
        run(*((np.concatenate([gate, up], axis=1), y) if merged else (gate, up, y)))
        wide = gate.astype(np.float64)
        np.testing.assert_allclose(y, wide / (1 + np.exp(-wide)) * up, rtol=2e-6, atol=1e-10)


@pytest.mark.parametrize(("heads", "head_dim"), [(3, 128), (2, 80), (5, 6)])
def test_rotary(heads: int, head_dim: int) -> None:
    run = compile_kernel(rotary(heads, head_dim))
    half = head_dim // 2
    for n in COUNTS:
        x, cos, sin = normal(n, n, heads, head_dim), normal(n + 1, n, head_dim), normal(n + 2, n, head_dim)
        y = unfilled(n, heads, head_dim)
        run(x, cos, sin, y)
        turned = np.concatenate([-x[..., half:], x[..., :half]], axis=-1)
        expected = x * cos[:, None].astype(np.float64) + turned * sin[:, None].astype(np.float64)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


def test_rotary_angles_up_to_long_contexts() -> None:
    half, scaling = 32, 1.25
    run = compile_kernel(rotary_angles(2 * half, scaling))
    inv_freq = (1e6 ** -(np.arange(half) / half)).astype(np.float32)
    for positions in ([], [0], [1, 2, 511, 4095, 32767, 131071, 3]):
        n = len(positions)
        cos, sin = unfilled(n, 2 * half), unfilled(n, 2 * half)
        run(np.array(positions, np.int32), inv_freq, cos, sin)
        angles = (np.array(positions, np.float32)[:, None] * inv_freq).astype(np.float64)
        angles = np.concatenate([angles, angles], axis=1)
        np.testing.assert_allclose(cos, np.cos(angles) * scaling, atol=2e-7)
        np.testing.assert_allclose(sin, np.sin(angles) * scaling, atol=2e-7)


@pytest.mark.parametrize("head_dim", [0, 7])
def test_rotary_refuses_heads_without_two_halves(head_dim: int) -> None:
    with pytest.raises(ValueError, match=f"head_dim is {head_dim}"):
        rotary(1, head_dim)
    with pytest.raises(ValueError, match=f"head_dim is {head_dim}"):
        rotary_angles(head_dim)


@pytest.mark.parametrize("features", [3, 300])
def test_rows_are_selected_and_gathered(features: int) -> None:
    select, gather = compile_kernel(select_rows(features)), compile_kernel(gather_table(23, features))
    table = normal(0, 23, features)
    for m in COUNTS:
        index = np.random.default_rng(m).integers(0, 23, m).astype(np.int32)
        for run, arguments in ((select, (table, index)), (gather, (index, table))):
            out = unfilled(m, features)
            run(*arguments, out)
            assert np.array_equal(out, table[index])
    select(unfilled(0, features), np.zeros(0, np.int32), unfilled(0, features))


@pytest.mark.parametrize("features", [3, 300])
def test_add(features: int) -> None:
    run = compile_kernel(add(features))
    for n in COUNTS:
        x, y, out = normal(n, n, features), normal(n + 1, n, features), unfilled(n, features)
        run(x, y, out)
        assert np.array_equal(out, x + y)


def test_kernels_are_callable_from_relax() -> None:
    """The kernels' symbolic n and their argument order are what R.call_tir takes."""
    from tvm import relax

    builder = relax.BlockBuilder()
    n = tvm.tirx.Var("n", "int64")
    x = relax.Var("x", relax.TensorType((n, 32), "float32"))
    w = relax.Var("w", relax.TensorType((32,), "float32"))
    kernel = builder.add_func(rms_norm(32, 1e-6), "rms_norm")
    with builder.function("main", [x, w]):
        builder.emit_func_output(relax.call_tir(kernel, [x, w], out_ty=relax.TensorType((n, 32), "float32")))
    machine = relax.VirtualMachine(tvm.compile(builder.get(), target=tvm.target.Target.from_device("cpu")), tvm.cpu())
    value = normal(0, 3, 32)
    result = machine["main"](tvm.runtime.tensor(value), tvm.runtime.tensor(np.ones(32, np.float32))).numpy()
    wide = value.astype(np.float64)
    np.testing.assert_allclose(result, wide / np.sqrt(np.mean(wide**2, 1, keepdims=True) + 1e-6), rtol=1e-6)
