"""The bfloat16 instructions against ml_dtypes: rounding to the bit, products, and modules of several kernels."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from support.cpu_features import needs_bf16
from support.run_kernel import compile_kernel
from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.tirx import PrimFunc
from tvm.tirx.script import builder as build

from vamc_py.schedules.llvm import bfloat, simd

pytestmark = needs_bf16

Array = np.ndarray[Any, np.dtype[Any]]


def rounding_kernel() -> PrimFunc:
    """even, odd float32[16] -> each rounded uint16[16], and both as pairs int32[16]."""
    with IRBuilder() as module, build.prim_func(s_tir=True):
        build.func_name("rounding")
        build.func_attr({"tirx.noalias": True})
        even, odd = (build.arg(name, build.buffer((16,), "float32")) for name in ("even", "odd"))
        rounded = [build.arg(name, build.buffer((16,), "uint16")) for name in ("rounded_even", "rounded_odd")]
        pairs = build.arg("pairs", build.buffer((16,), "int32"))
        with bfloat.instructions():
            for source, result in zip((even, odd), rounded, strict=True):
                simd.store(result, bfloat.round_bf16(simd.load(source, 0)), 0)
            simd.store(pairs, bfloat.to_pairs(simd.load(even, 0), simd.load(odd, 0)), 0)
    return module.get()


def product_kernel(name: str, start: float) -> PrimFunc:
    """w float32[K, 2, 16], a int32[K, 4] of pairs -> y float32[4, 16]: `start` plus the products, summed over K."""
    with IRBuilder() as module, build.prim_func(s_tir=True):
        build.func_name(name)
        build.func_attr({"tirx.noalias": True, "global_symbol": name})
        steps = T.int32()
        w = build.arg("w", build.buffer((steps, 2, 16), "float32"))
        a = build.arg("a", build.buffer((steps, 4), "int32"))
        y = build.arg("y", build.buffer((4, 16), "float32"))
        with bfloat.instructions(), T.parallel(0, 1):
            sums = [simd.scratch((16,), "float32") for _ in range(4)]
            for total in sums:
                simd.store(total, simd.splat(start), 0)
            with T.serial(0, steps) as step:
                pairs = T.bind(bfloat.to_pairs(simd.load(w, step, 0, 0), simd.load(w, step, 1, 0)))
                for row, total in enumerate(sums):
                    simd.store(total, bfloat.dot_bf16(simd.load(total, 0), pairs, simd.splat(a[step, row])), 0)
            for row, total in enumerate(sums):
                simd.store(y, simd.load(total, 0), row, 0)
    return module.get()


@T.prim_func(s_tir=True)
def written_kernel(a: T.Buffer((16,), "int32"), b: T.Buffer((16,), "int32"), y: T.Buffer((16,), "float32")) -> None:
    T.func_attr({"tirx.noalias": True, "global_symbol": "written"})
    with bfloat.instructions():
        simd.store(y, bfloat.dot_bf16(simd.splat(0.5), simd.load(a, 0), simd.load(b, 0)), 0)


@cache
def module() -> Any:
    functions = {"from_0": product_kernel("from_0", 0.0), "from_1": product_kernel("from_1", 1.0)}
    return tvm.compile(
        tvm.IRModule({**functions, "written": written_kernel}), target=tvm.target.Target.from_device("cpu")
    )


@cache
def rounding() -> Any:
    return compile_kernel(rounding_kernel())


def rounded_by_definition(x: Array) -> Array:
    """The bits of x as bfloat16; denormals are zero before and after."""
    smallest = np.finfo(np.float32).tiny
    x = np.where(np.abs(x) < smallest, np.copysign(np.float32(0), x), x)
    return x.astype(ml_dtypes.bfloat16).view(np.uint16)


def is_nan(bits: Array) -> Array:
    return (bits & 0x7FFF) > 0x7F80


@settings(max_examples=200, deadline=None)
@given(arrays(np.uint32, (2, 16), elements=st.integers(0, 2**32 - 1)))
def test_rounding_is_to_nearest_even_for_all_bits(bits: Array) -> None:
    x = bits.view(np.float32)
    even, odd, pairs = np.zeros(16, np.uint16), np.zeros(16, np.uint16), np.zeros(16, np.int32)
    rounding()(x[0], x[1], even, odd, pairs)
    assert np.array_equal(pairs.view(np.uint16).reshape(16, 2), np.stack([even, odd], axis=1))
    for row, result in zip(x, (even, odd), strict=True):
        nan = np.isnan(row)
        assert np.array_equal(is_nan(result), nan)
        assert np.array_equal(result[~nan], rounded_by_definition(row[~nan]))


def test_rounding_of_halves_extremes_and_what_is_not_finite() -> None:
    halves = np.array([0x3F808000, 0x3F818000, 0xBF808000, 0xBF818000, 0x3F808001, 0x3F817FFF], np.uint32)
    special = np.array([np.nan, -np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 1e-39, 1.1754943e-38, 0, -0.0], np.float32)
    x = np.concatenate([halves.view(np.float32), special])
    results = np.zeros(16, np.uint16), np.zeros(16, np.uint16), np.zeros(16, np.int32)
    rounding()(x, x[::-1].copy(), *results)
    assert results[0][:6].tolist() == [0x3F80, 0x3F82, 0xBF80, 0xBF82, 0x3F81, 0x3F81]
    assert is_nan(results[0][6:8]).all()
    assert results[0][8:].tolist() == [0x7F80, 0xFF80, 0x7F80, 0xFF80, 0, 0x0080, 0, 0x8000]


@pytest.mark.parametrize(("name", "start"), [("from_0", 0.0), ("from_1", 1.0)])
@pytest.mark.parametrize("exported", [False, True], ids=["in memory", "exported"])
def test_two_kernels_of_one_module_import_them(name: str, start: float, exported: bool, tmp_path: Path) -> None:
    steps = 37
    rng = np.random.default_rng(0)
    w = rng.standard_normal((steps, 2, 16)).astype(np.float32)
    a = rng.standard_normal((steps, 4, 2)).astype(ml_dtypes.bfloat16)
    functions = module()
    if exported:
        functions.export_library(str(tmp_path / "module.so"))
        functions = tvm.runtime.load_module(str(tmp_path / "module.so"))
    y = tvm.runtime.tensor(np.zeros((4, 16), np.float32))
    functions[name](tvm.runtime.tensor(w), tvm.runtime.tensor(a.view(np.int32).reshape(steps, 4)), y)
    exact = np.einsum("kpl,krp->rl", w.astype(ml_dtypes.bfloat16).astype(np.float64), a.astype(np.float64))
    assert np.allclose(y.numpy(), start + exact, atol=1e-5)


def test_a_kernel_in_tvmscript_imports_them() -> None:
    a, b = np.random.default_rng(1).standard_normal((2, 16, 2)).astype(ml_dtypes.bfloat16)
    y = tvm.runtime.tensor(np.zeros(16, np.float32))
    module()["written"](*(tvm.runtime.tensor(pairs.view(np.int32).ravel()) for pairs in (a, b)), y)
    assert np.allclose(y.numpy(), 0.5 + (a.astype(np.float64) * b.astype(np.float64)).sum(axis=1), atol=1e-6)


def test_products_of_what_is_not_finite() -> None:
    a = np.ones((16, 2), ml_dtypes.bfloat16)
    b = np.ones((16, 2), ml_dtypes.bfloat16)
    a[0, 0], a[1, 1], b[2, 0], a[3, 0], b[3, 0] = np.nan, np.inf, -np.inf, np.inf, 0
    y = tvm.runtime.tensor(np.zeros(16, np.float32))
    module()["written"](*(tvm.runtime.tensor(pairs.view(np.int32).ravel()) for pairs in (a, b)), y)
    assert np.array_equal(y.numpy()[:5], [np.nan, np.inf, -np.inf, np.nan, 2.5], equal_nan=True)


def test_the_instructions_are_inlined_and_the_broadcast_folded() -> None:
    assembly = module().mod.inspect_source("asm") if hasattr(module(), "mod") else module().inspect_source("asm")
    assert "vamc_" not in assembly
    products = [line for line in assembly.splitlines() if "vdpbf16ps" in line]
    assert sum("{1to16}" in line for line in products) >= 8
