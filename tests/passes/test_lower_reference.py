"""lower-reference: the dialect becomes TVM's operators, with a note of what will be slow."""

from __future__ import annotations

import numpy as np
from support.relax_modules import (
    Compiled,
    apply_passes,
    assert_rewrites,
    assert_unchanged,
    operators_in,
    program_of,
    random_arguments,
)
from tvm import relax, tirx
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from vamc_py.passes.lower_reference import LowerReference, slow_operators
from vamc_py.passes.select_kernels import SelectKernels


@I.ir_module
class Before:
    @R.function
    def main(
        x: R.Tensor(("n", 8), "float32"),
        rows: R.Tensor(("m",), "int32"),
        w: R.Tensor((8, 4), "int8"),
        scale: R.Tensor((8,), "float32"),
    ):
        R.func_attr({"vamc.inputs": 2, "vamc.caches": 0})
        with R.dataflow():
            product = R.vamc.swiglu(x)
            y = R.vamc.linear(product, w, scale, x, bias=False, residual=True)
            out = R.vamc.select_rows(y, rows)
            R.output(out)
        return out


@I.ir_module
class Expected:
    @R.function
    def main(
        x: R.Tensor(("n", 8), "float32"),
        rows: R.Tensor(("m",), "int32"),
        w: R.Tensor((8, 4), "int8"),
        scale: R.Tensor((8,), "float32"),
    ):
        R.func_attr({"vamc.inputs": 2, "vamc.caches": 0})
        with R.dataflow():
            halves = R.split(x, 2, axis=-1)
            gate = halves[0]
            sigmoid = R.sigmoid(gate)
            silu = R.multiply(gate, sigmoid)
            up = halves[1]
            product = R.multiply(silu, up)
            cast = R.astype(w, "float32")
            transposed = R.permute_dims(cast)
            plain = R.matmul(product, transposed, out_dtype="float32")
            scaled = R.multiply(plain, scale)
            y = R.add(scaled, x)
            out = R.take(y, rows, axis=0, mode="fast")
            R.output(out)
        return out


def test_operators_become_those_of_tvm() -> None:
    assert_rewrites(LowerReference(), Before, Expected)


def test_the_values_are_those_of_the_formula() -> None:
    program = apply_passes(program_of(Before), LowerReference())
    x, rows, w, scale = random_arguments(program, {"n": 4, "m": 3})
    gate, up = np.split(x.astype(np.float64), 2, axis=1)
    want = (gate / (1 + np.exp(-gate)) * up) @ w.T.astype(np.float64) * scale + x
    [got] = Compiled(program)(x, rows, w, scale)
    np.testing.assert_allclose(got, want[rows], rtol=1e-5, atol=1e-5)


def test_what_is_slow_is_noted_by_name_and_count() -> None:
    notes = apply_passes(program_of(Before), LowerReference()).notes
    assert notes == tuple(
        f"1 x {name} runs on TVM's unscheduled loops" for name in ("vamc.swiglu", "vamc.linear", "vamc.select_rows")
    )


@I.ir_module
class Free:
    """Views and calls of kernels, which cost nothing beside themselves."""

    @R.function
    def main(x: R.Tensor(("n", 8), "float32")):
        n = T.int64()
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            heads = R.reshape(x, R.shape([n, 2, 4]))
            back = R.reshape(heads, R.shape([n, 8]))
            out = R.vamc.swiglu(back)
            R.output(out)
        return out


def test_kernels_and_views_are_not_slow() -> None:
    assert slow_operators(apply_passes(program_of(Free), SelectKernels())) == {}
    assert slow_operators(program_of(Free)) == {"vamc.swiglu": 1}


@I.ir_module
class Attention:
    @R.function
    def main(
        qkv: R.Tensor(("n", 32), "float32"),
        cos: R.Tensor(("n", 8), "float32"),
        sin: R.Tensor(("n", 8), "float32"),
        positions: R.Tensor(("n",), "int32"),
        slots: R.Tensor(("n",), "int32"),
        pages: R.Tensor(("s", "p"), "int32"),
        k_cache: R.Tensor(("num_pages", 1, "blocks", 8, 16), "float16"),
        v_cache: R.Tensor(("num_pages", 1, "blocks", 16, 8), "float16"),
    ):
        R.func_attr({"vamc.inputs": 6, "vamc.caches": 2})
        with R.dataflow():
            out = R.vamc.qkv_attention(
                qkv, cos, sin, positions, slots, pages, k_cache, v_cache,
                heads=2, kv_heads=1, head_dim=8, scale=0.25, epsilon=0.0,
            )  # fmt: skip
            R.output(out)
        return out


def test_a_reference_in_the_dialect_is_lowered_too() -> None:
    after = apply_passes(program_of(Attention), LowerReference())
    counts = operators_in(after)
    assert not any(name.startswith("vamc.") for name in counts)
    assert counts["call_tir_inplace"] == 1
    kernels = [f for _, f in after.module.functions_items() if isinstance(f, tirx.PrimFunc)]
    assert len(kernels) == 1
    relax.analysis.well_formed(after.module)
    assert after.notes == ("1 x vamc.qkv_attention runs on TVM's unscheduled loops",)


def test_a_function_without_the_dialect_stays() -> None:
    assert_unchanged(LowerReference(), Expected)
