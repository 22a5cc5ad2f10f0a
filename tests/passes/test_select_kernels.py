"""select-kernels: calls of kernels, weights in their packed layout, and what stays for the reference lowering."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import pytest
import torch
from support.relax_modules import (
    Compiled,
    apply_passes,
    assert_same_results,
    assert_unchanged,
    operators_in,
    parameters_by_plan,
    program_of,
    tensor,
)
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

import vamc_py.schedules.llvm.select as llvm
from vamc_py import dialect
from vamc_py.passes.cast_weights import CastWeights
from vamc_py.passes.quantize_int8 import QuantizeInt8
from vamc_py.passes.select_kernels import SelectKernels
from vamc_py.pipeline.graph import Graph, operator_name
from vamc_py.pipeline.program import Program, layout
from vamc_py.schedules.kernel import Kernel, PackedWeight
from vamc_py.schedules.llvm.instruction_set import AVX512_FEATURES
from vamc_py.weights.plan import Cast


@I.ir_module
class Model:
    """A tied model without attention: two layers of the same shape, one with bias; the logits of wanted rows."""

    @R.function
    def main(
        tokens: R.Tensor(("n",), "int32"),
        rows: R.Tensor(("m",), "int32"),
        table: R.Tensor((101, 64), "float32"),
        norm: R.Tensor((64,), "float32"),
        gate_up: R.Tensor((192, 64), "float32"),
        down: R.Tensor((64, 96), "float32"),
        again: R.Tensor((192, 64), "float32"),
        bias: R.Tensor((192,), "float32"),
    ):
        R.func_attr({"vamc.inputs": 2, "vamc.caches": 0})
        with R.dataflow():
            x = R.vamc.embedding(tokens, table)
            y = R.vamc.rms_norm(x, norm, epsilon=1e-6)
            both = R.vamc.linear(y, gate_up, bias=False, residual=False)
            product = R.vamc.swiglu(both)
            z = R.vamc.linear(product, down, x, bias=False, residual=True)
            wide = R.vamc.linear(z, again, bias, bias=True, residual=False)
            parts = R.vamc.swiglu(wide)
            summed = R.vamc.linear(parts, down, bias=False, residual=False)
            total = R.add(summed, z)
            last = R.vamc.select_rows(total, rows)
            logits = R.vamc.linear(last, table, bias=False, residual=False)
            R.output(logits)
        return logits


def checkpoint(program: Program) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    weights = layout(program.function)[2]
    return {w.name: torch.randn([int(d) for d in w.ty.shape], generator=generator) * 0.3 for w in weights}


@I.ir_module
class Tied:
    """One table for both the embedding and a layer with every optional argument."""

    @R.function
    def main(tokens: R.Tensor(("n",), "int32"), table: R.Tensor((64, 64), "float32"), bias: R.Tensor((64,), "float32")):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            x = R.vamc.embedding(tokens, table)
            out = R.vamc.linear(x, table, bias, x, bias=True, residual=True)
            R.output(out)
        return out


WEIGHT_PASSES = {"int8": (QuantizeInt8(),), "fp16": (CastWeights(),), "bf16": (CastWeights("bfloat16"),), "fp32": ()}


@pytest.mark.parametrize("dtype", WEIGHT_PASSES)
def test_packed_weights_give_what_the_references_give(dtype: str) -> None:
    whole = program_of(Tied)
    before = apply_passes(whole, *WEIGHT_PASSES[dtype], dtype=dtype)
    after = apply_passes(before, SelectKernels(), dtype=dtype)
    assert operators_in(after) == {"call_tir": 2}
    weights = checkpoint(whole)
    tokens = np.array([63, 0, 17, 7, 7], np.int32)
    [want] = Compiled(before)(tokens, *parameters_by_plan(before, weights))
    [got] = Compiled(after)(tokens, *parameters_by_plan(after, weights))
    assert np.abs(got - want).max() <= 2e-4 * np.abs(want).max()


@I.ir_module
class RowOperators:
    @R.function
    def main(
        x: R.Tensor(("n", 32), "float32"),
        positions: R.Tensor(("n",), "int32"),
        rows: R.Tensor(("m",), "int32"),
        inv_freq: R.Tensor((8,), "float32"),
        norm: R.Tensor((32,), "float32"),
    ):
        n = T.int64()
        R.func_attr({"vamc.inputs": 3, "vamc.caches": 0})
        with R.dataflow():
            angles = R.vamc.rotary_angles(positions, inv_freq, scaling=1.5)
            cos = angles[0]
            sin = angles[1]
            heads = R.reshape(x, R.shape([n, 2, 16]))
            turned = R.vamc.rotary(heads, cos, sin)
            y = R.reshape(turned, R.shape([n, 32]))
            z = R.vamc.rms_norm(y, norm, epsilon=1e-3)
            total = R.add(z, x)
            halves = R.vamc.swiglu(total)
            product = R.vamc.swiglu(halves, cos)
            out = R.vamc.select_rows(product, rows)
            R.output(out)
        return out


def test_the_other_kernels_take_their_arguments_in_the_order_of_the_call() -> None:
    before = program_of(RowOperators)
    after = apply_passes(before, SelectKernels())
    assert operators_in(after) == {"call_tir": 7, "reshape": 2}
    assert_same_results(before, after, {"n": 5, "m": 3})


def test_weights_are_packed_once_in_the_graph_and_in_the_plan() -> None:
    before = apply_passes(program_of(Model), CastWeights())
    after = apply_passes(before, SelectKernels())
    types = {w.name: (tuple(int(d) for d in w.ty.shape), str(w.ty.dtype)) for w in layout(after.function)[2]}
    assert types == {
        "table": ((2, 64, 64), "float16"),
        "norm": ((64,), "float32"),
        "gate_up": ((3, 64, 64), "float16"),
        "down": ((1, 96, 64), "float16"),
        "again": ((3, 64, 64), "float16"),
        "bias": ((192,), "float32"),
    }
    assert after.plan["table"].steps == (Cast("float16"), llvm.PackPanels())
    assert after.plan["norm"].steps == after.plan["bias"].steps == (Cast("float32"),)
    assert before.plan["table"].steps == (Cast("float16"),)


def test_layers_of_one_shape_share_a_kernel() -> None:
    after = apply_passes(program_of(Model), SelectKernels())
    names = sorted(gv.name_hint for gv in after.module.get_global_vars())
    assert names == [
        "add_64", "embedding_float32_101x64",
        "linear_float32_101x64", "linear_float32_192x64", "linear_float32_192x64_bias",
        "linear_float32_64x96", "linear_float32_64x96_residual",
        "main", "rms_norm_64", "select_rows_64", "swiglu_96_merged",
    ]  # fmt: skip


@I.ir_module
class Prologues:
    """int8 layers with every prologue, each in an arithmetic of its own."""

    @R.function
    def main(
        x: R.Tensor(("n", 64), "float32"),
        gate_up: R.Tensor((96, 64), "int8"),
        gate_up_scale: R.Tensor((96,), "float32"),
        norm: R.Tensor((64,), "float32"),
        down: R.Tensor((64, 48), "int8"),
        down_scale: R.Tensor((64,), "float32"),
        head: R.Tensor((80, 64), "int8"),
        head_scale: R.Tensor((80,), "float32"),
        bias: R.Tensor((80,), "float32"),
    ):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            both = R.vamc.linear(
                x,
                gate_up,
                gate_up_scale,
                norm,
                bias=False,
                residual=False,
                activation="int8_g32",
                wide_rows=2,
                prologue="rms_norm",
                epsilon=0.25,
            )
            hidden = R.vamc.linear(
                both,
                down,
                down_scale,
                x,
                bias=False,
                residual=True,
                activation="int8_token",
                wide_rows=2,
                prologue="swiglu",
            )
            out = R.vamc.linear(hidden, head, head_scale, bias, bias=True, residual=False)
            R.output(out)
        return out


def test_kernels_are_named_by_prologue_and_activation_and_say_them_to_those_who_measure() -> None:
    after = apply_passes(program_of(Prologues), SelectKernels(), dtype="int8")
    own = ("vamc.activation", "vamc.wide_rows", "vamc.prologue")
    said = {
        gv.name_hint: tuple((function.attrs or {}).get(name) for name in own)
        for gv, function in after.module.functions_items()
        if gv.name_hint != "main"
    }
    assert said == {
        "linear_int8_96x64_norm_g32": ("int8_g32", 2, "rms_norm"),
        "linear_int8_64x48_swiglu_token_residual": ("int8_token", 2, "swiglu"),
        "linear_int8_80x64_bias": (None, None, None),
    }


@pytest.mark.parametrize("rows", [2, 3, 9])
def test_layers_with_prologue_and_activation_give_what_the_references_give(rows: int) -> None:
    before = program_of(Prologues)
    after = apply_passes(before, SelectKernels(), dtype="int8")
    rng = np.random.default_rng(rows)
    arguments = [rng.standard_normal((rows, 64)).astype(np.float32)]
    for weight in layout(before.function)[2]:
        shape = [int(d) for d in weight.ty.shape]
        int8 = str(weight.ty.dtype) == "int8"
        arguments.append(
            rng.integers(-127, 128, shape).astype(np.int8)
            if int8
            else rng.uniform(0.001, 0.01, shape).astype(np.float32)
        )
    packed = [
        llvm.PackPanels().apply(argument) if argument.dtype == np.int8 else argument for argument in arguments[1:]
    ]
    [want] = Compiled(before)(*arguments)
    [got] = Compiled(after)(arguments[0], *packed)
    assert np.linalg.norm(got - want) <= SelectKernels.tolerance * np.linalg.norm(want)


def test_kernels_are_made_for_the_instructions_of_the_target() -> None:
    """Each set of instructions has kernels of its own, and they are the same ones when it comes again."""
    x, w = (relax.Var(name, relax.TensorType([4, 64], "float32")) for name in "xw")
    call = relax.BlockBuilder().normalize(dialect.linear(x, w))
    sets = [(*AVX512_FEATURES, "avx512vnni"), ("avx2", "fma"), (*AVX512_FEATURES, "avx512vnni")]
    functions = [kernel.function for features in sets if (kernel := llvm.select(call, features)) is not None]
    assert functions[0] is functions[2]
    assert functions[0] is not functions[1]


@I.ir_module
class Attention:
    @R.function
    def main(
        qkv: R.Tensor(("n", 128), "float32"),
        cos: R.Tensor(("n", 16), "float32"),
        sin: R.Tensor(("n", 16), "float32"),
        positions: R.Tensor(("n",), "int32"),
        slots: R.Tensor(("n",), "int32"),
        pages: R.Tensor(("s", "p"), "int32"),
        k_cache: R.Tensor(("num_pages", 2, "blocks", 16, 16), "float16"),
        v_cache: R.Tensor(("num_pages", 2, "blocks", 16, 16), "float16"),
        q_norm: R.Tensor((16,), "float32"),
        k_norm: R.Tensor((16,), "float32"),
    ):
        R.func_attr({"vamc.inputs": 6, "vamc.caches": 2})
        with R.dataflow():
            out = R.vamc.qkv_attention(
                qkv, q_norm, k_norm, cos, sin, positions, slots, pages, k_cache, v_cache,
                heads=4, kv_heads=2, head_dim=16, scale=0.25, epsilon=1e-6,
            )  # fmt: skip
            R.output(out)
        return out


def test_attention_changes_the_caches_in_place() -> None:
    before = program_of(Attention)
    after = apply_passes(before, SelectKernels())
    [call] = [v for v in Graph(after.function).values.values() if operator_name(v) == "relax.call_tir_inplace"]
    assert [int(i) for i in call.attrs.inplace_indices] == [8, 9, -1]
    rng = np.random.default_rng(0)
    angles = rng.uniform(0, 6, (3, 16)).astype(np.float32)
    inputs = [
        rng.standard_normal((3, 128)).astype(np.float32), np.cos(angles), np.sin(angles),
        np.array([0, 1, 2], np.int32), np.zeros(3, np.int32), np.array([[1]], np.int32),
    ]  # fmt: skip
    norms = [rng.standard_normal(16).astype(np.float32) for _ in range(2)]
    results = []
    for program in (before, after):
        caches = [tensor(np.zeros((2, 2, 1, 16, 16), np.float16)) for _ in range(2)]
        [out] = Compiled(program)(*inputs, *caches, *norms)
        results.append((out, *(cache.numpy() for cache in caches)))
    for want, got in zip(*results, strict=True):
        assert np.abs(want).max() > 0
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=2e-3)


@T.prim_func(s_tir=True)
def rows_times_columns(x_: T.handle, w_: T.handle, y_: T.handle) -> None:
    """y = x @ w for the transposed weight that ``transposing`` asks for."""
    n = T.int64()
    x = T.match_buffer(x_, (n, 4), "float32")
    w = T.match_buffer(w_, (4, 6), "float32")
    y = T.match_buffer(y_, (n, 6), "float32")
    for i, j, k in T.grid(n, 6, 4):
        with T.sblock("product"):
            vi, vj, vk = T.axis.remap("SSR", [i, j, k])
            with T.init():
                y[vi, vj] = T.float32(0)
            y[vi, vj] = y[vi, vj] + x[vi, vk] * w[vk, vj]


class Transpose:
    """The step of a weight that lies transposed; needs all rows at once."""

    rows_multiple = 6

    def apply(self, block: Any) -> Any:
        return np.ascontiguousarray(block.T)


TRANSPOSE = Transpose()


def transposing(call: Any, _features: Collection[str]) -> Kernel | None:
    if operator_name(call) != "relax.vamc.linear":
        return None
    return Kernel("product", rows_times_columns, {1: PackedWeight((4, 6), "float32", TRANSPOSE)})


@I.ir_module
class Linear:
    @R.function
    def main(x: R.Tensor(("n", 4), "float32"), w: R.Tensor((6, 4), "float32")):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            y = R.vamc.linear(x, w, bias=False, residual=False)
            R.output(y)
        return y


def test_a_call_becomes_call_tir_with_the_packed_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llvm, "select", transposing)
    after = apply_passes(program_of(Linear), SelectKernels())
    [(_, call)] = Graph(after.function).calls("relax.call_tir")
    x, w = after.function.params
    assert call.args[0].name_hint == "product"
    assert list(call.args[1].fields) == [x, w]
    assert [int(d) for d in w.ty.shape] == [4, 6]
    assert after.plan["w"].steps == (Cast("float32"), TRANSPOSE)
    arrays = np.ones((2, 4), np.float32), np.arange(24, dtype=np.float32).reshape(6, 4)
    [got] = Compiled(after)(arrays[0], *parameters_by_plan(after, {"w": torch.from_numpy(arrays[1])}))
    np.testing.assert_array_equal(got, arrays[0] @ arrays[1].T)


@I.ir_module
class ReadUnpackedToo:
    @R.function
    def main(x: R.Tensor(("n", 4), "float32"), w: R.Tensor((6, 4), "float32")):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            y = R.vamc.linear(x, w, bias=False, residual=False)
            z = R.matmul(y, w)
            R.output(z)
        return z


@I.ir_module
class WeightIsAnInput:
    @R.function
    def main(x: R.Tensor(("n", 4), "float32"), w: R.Tensor((6, 4), "float32")):
        R.func_attr({"vamc.inputs": 2, "vamc.caches": 0})
        with R.dataflow():
            y = R.vamc.linear(x, w, bias=False, residual=False)
            R.output(y)
        return y


@I.ir_module
class OneReaderHasNoKernel:
    """An embedding of a batch has no kernel, so the tied projection must not pack the table."""

    @R.function
    def main(tokens: R.Tensor((2, "n"), "int32"), x: R.Tensor(("n", 4), "float32"), w: R.Tensor((6, 4), "float32")):
        R.func_attr({"vamc.inputs": 2, "vamc.caches": 0})
        with R.dataflow():
            y = R.vamc.embedding(tokens, w)
            z = R.vamc.linear(x, w, bias=False, residual=False)
            out = (y, z)
            R.output(out)
        return out


@I.ir_module
class BatchOfHeads:
    """Shapes for which the llvm target has no kernels."""

    @R.function
    def main(x: R.Tensor((2, "n", 8), "float32"), w: R.Tensor((6, 8), "float32"), norm: R.Tensor((8,), "float32")):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            y = R.vamc.rms_norm(x, norm, epsilon=1e-6)
            z = R.vamc.linear(y, w, bias=False, residual=False)
            out = R.add(z, z)
            R.output(out)
        return out


@pytest.mark.parametrize("module", [ReadUnpackedToo, WeightIsAnInput, OneReaderHasNoKernel, BatchOfHeads])
def test_what_must_stay(module: Any) -> None:
    assert_unchanged(SelectKernels(), module)


def test_two_layouts_of_one_weight_are_a_fault_of_the_schedules(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = iter([(2, 64, 64), (2, 64, 32)])

    def contradicting(call: Any, _features: Collection[str]) -> Kernel | None:
        kernel = (
            llvm._RULES[operator_name(call)](call) if "table" in {getattr(a, "name", "") for a in call.args} else None
        )
        return kernel and Kernel(kernel.name, kernel.function, {1: PackedWeight(next(shapes), "float32", TRANSPOSE)})

    monkeypatch.setattr(llvm, "select", contradicting)
    with pytest.raises(ValueError, match="two kernels want table in different layouts"):
        apply_passes(program_of(Model), SelectKernels())


@I.ir_module
class TableOfAngles:
    """Rows of a constant by position, as checkpoints' own code looks up its cosines."""

    @R.function
    def main(positions: R.Tensor(("n",), "int32"), table: R.Tensor((9, 20), "float32")):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            rows = R.vamc.embedding(positions, table)
            R.output(rows)
        return rows


def test_rows_of_a_constant_are_gathered_by_a_kernel() -> None:
    table = np.random.default_rng(0).standard_normal((9, 20)).astype(np.float32)
    program = program_of(TableOfAngles)
    positions, parameter = program.function.params
    substitute = {parameter: relax.const(table)}
    constant = program.with_function(Graph(program.function).rebuild(parameters=[positions], substitute=substitute))
    after = apply_passes(constant, SelectKernels())
    assert operators_in(after) == {"call_tir": 1}
    ids = np.array([8, 0, 0, 3], np.int32)
    [got] = Compiled(after)(ids)
    np.testing.assert_array_equal(got, table[ids])
