"""quantize-int8: which weights become int8, their parameters, their plan, and the values that follow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.relax_modules import Compiled, apply_passes, assert_rewrites, assert_unchanged, program_of
from tvm.script import ir as I
from tvm.script import relax as R

from vamc_py.passes.quantize_int8 import QuantizeInt8
from vamc_py.pipeline.program import Program, layout
from vamc_py.weights.plan import Cast, QuantizeRows


@I.ir_module
class Before:
    """A tied model in small: embedding, a layer with bias and residual, a norm, the output projection."""

    @R.function
    def main(
        tokens: R.Tensor(("n",), "int32"),
        table: R.Tensor((9, 8), "float32"),
        w: R.Tensor((8, 8), "float32"),
        bias: R.Tensor((8,), "float32"),
        norm: R.Tensor((8,), "float32"),
    ):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            x = R.vamc.embedding(tokens, table)
            y = R.vamc.linear(x, w, bias, x, bias=True, residual=True)
            z = R.vamc.rms_norm(y, norm, epsilon=1e-6)
            logits = R.vamc.linear(z, table, bias=False, residual=False)
            R.output(logits)
        return logits


@I.ir_module
class Whole:
    @R.function
    def main(
        tokens: R.Tensor(("n",), "int32"),
        table: R.Tensor((9, 8), "int8"),
        table_scale: R.Tensor((9,), "float32"),
        w: R.Tensor((8, 8), "int8"),
        w_scale: R.Tensor((8,), "float32"),
        bias: R.Tensor((8,), "float32"),
        norm: R.Tensor((8,), "float32"),
    ):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            x = R.vamc.embedding(tokens, table, table_scale)
            y = R.vamc.linear(x, w, w_scale, bias, x, bias=True, residual=True)
            z = R.vamc.rms_norm(y, norm, epsilon=1e-6)
            logits = R.vamc.linear(z, table, table_scale, bias=False, residual=False)
            R.output(logits)
        return logits


@I.ir_module
class InnerOnly:
    @R.function
    def main(
        tokens: R.Tensor(("n",), "int32"),
        table: R.Tensor((9, 8), "float32"),
        w: R.Tensor((8, 8), "int8"),
        w_scale: R.Tensor((8,), "float32"),
        bias: R.Tensor((8,), "float32"),
        norm: R.Tensor((8,), "float32"),
    ):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            x = R.vamc.embedding(tokens, table)
            y = R.vamc.linear(x, w, w_scale, bias, x, bias=True, residual=True)
            z = R.vamc.rms_norm(y, norm, epsilon=1e-6)
            logits = R.vamc.linear(z, table, bias=False, residual=False)
            R.output(logits)
        return logits


@pytest.mark.parametrize(("lm_head", "expected"), [(True, Whole), (False, InnerOnly)])
def test_lm_head_decides_about_the_embedding_and_the_output_projection(lm_head: bool, expected: Any) -> None:
    assert_rewrites(QuantizeInt8(lm_head=lm_head), Before, expected)


def test_the_plan_makes_values_and_scales_from_the_same_tensor() -> None:
    after = apply_passes(program_of(Before), QuantizeInt8())
    names = [weight.name for weight in layout(after.function)[2]]
    assert names == list(after.plan) == ["table", "table.scale", "w", "w.scale", "bias", "norm"]
    assert after.plan["w"].sources == after.plan["w.scale"].sources == ("w",)
    assert after.plan["w"].steps == (Cast("float32"), QuantizeRows("values"))
    assert after.plan["w.scale"].steps == (Cast("float32"), QuantizeRows("scale"))
    assert after.plan["norm"].steps == (Cast("float32"),)


def by_plan(program: Program, checkpoint: dict[str, np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
    made = []
    for weight in layout(program.function)[2]:
        [source] = program.plan[weight.name].sources
        block: Any = checkpoint[source]
        for step in program.plan[weight.name].steps:
            block = step.apply(block)
        made.append(block)
    return made


def test_the_result_is_that_of_the_dequantized_weights() -> None:
    rng = np.random.default_rng(1)
    before, after = program_of(Before), apply_passes(program_of(Before), QuantizeInt8())
    shapes = {"table": (9, 8), "w": (8, 8), "bias": (8,), "norm": (8,)}
    checkpoint = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    made = by_plan(after, checkpoint)
    table, table_scale, w, w_scale, bias, norm = made
    dequantized = [table * table_scale[:, None], w * w_scale[:, None], bias, norm]
    assert any((whole != checkpoint[name]).any() for name, whole in zip(shapes, dequantized, strict=True))
    tokens = np.array([8, 0, 3], np.int32)
    [got], [want] = Compiled(after)(tokens, *made), Compiled(before)(tokens, *dequantized)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@I.ir_module
class ReadAsFloatElsewhere:
    @R.function
    def main(x: R.Tensor(("n", 8), "float32"), w: R.Tensor((8, 8), "float32")):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            y = R.vamc.linear(x, w, bias=False, residual=False)
            z = R.matmul(y, w)
            R.output(z)
        return z


@I.ir_module
class MatrixIsAnInput:
    @R.function
    def main(x: R.Tensor(("n", 8), "float32"), w: R.Tensor((8, 8), "float32")):
        R.func_attr({"vamc.inputs": 2, "vamc.caches": 0})
        with R.dataflow():
            y = R.vamc.linear(x, w, bias=False, residual=False)
            R.output(y)
        return y


@I.ir_module
class ReadAsRowsToo:
    """A matrix that another layer reads as its input."""

    @R.function
    def main(matrix: R.Tensor((8, 8), "int8"), scale: R.Tensor((8,), "float32"), w: R.Tensor((8, 8), "float32")):
        R.func_attr({"vamc.inputs": 0, "vamc.caches": 0})
        with R.dataflow():
            y = R.vamc.linear(w, matrix, scale, bias=False, residual=False)
            z = R.vamc.linear(y, w, bias=False, residual=False)
            R.output(z)
        return z


@pytest.mark.parametrize("module", [ReadAsFloatElsewhere, ReadAsRowsToo, MatrixIsAnInput, Whole])
def test_what_must_stay(module: Any) -> None:
    assert_unchanged(QuantizeInt8(), module)
