"""cast-weights: matrices and the embedding take 16 bits, norms and biases stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.relax_modules import (
    Compiled,
    apply_passes,
    assert_rewrites,
    assert_unchanged,
    program_of,
    random_arguments,
    tensor,
)
from tvm.script import ir as I
from tvm.script import relax as R

from vamc_py.passes.cast_weights import CastWeights
from vamc_py.pipeline.program import Program
from vamc_py.weights.plan import Cast, QuantizeRows, Recipe, numpy_dtype


@I.ir_module
class Before:
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
class ExpectedFloat16:
    @R.function
    def main(
        tokens: R.Tensor(("n",), "int32"),
        table: R.Tensor((9, 8), "float16"),
        w: R.Tensor((8, 8), "float16"),
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


def test_matrices_and_the_embedding_are_cast() -> None:
    assert_rewrites(CastWeights(), Before, ExpectedFloat16)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_plan_casts_once(dtype: str) -> None:
    after = apply_passes(program_of(Before), CastWeights(dtype))
    steps = {name: after.plan[name].steps for name in after.plan}
    half, single = (Cast(dtype),), (Cast("float32"),)
    assert steps == {"table": half, "w": half, "bias": single, "norm": single}


def test_other_steps_of_the_plan_stay() -> None:
    program = program_of(Before)
    recipe = Recipe(("w",), (QuantizeRows("values"), Cast("float32")))
    plan = program.plan.with_recipes({"w": recipe})
    after = apply_passes(Program(program.module, plan), CastWeights())
    assert after.plan["w"] == Recipe(("w",), (QuantizeRows("values"), Cast("float16")))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_result_is_that_of_the_rounded_weights(dtype: str) -> None:
    before = program_of(Before)
    after = apply_passes(before, CastWeights(dtype))
    tokens, table, w, bias, norm = random_arguments(before, {"n": 3})
    halves = [array.astype(numpy_dtype(dtype)) for array in (table, w)]
    [got] = Compiled(after)(tokens, *(tensor(half) for half in halves), bias, norm)
    [want] = Compiled(before)(tokens, *(half.astype(np.float32) for half in halves), bias, norm)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@I.ir_module
class NothingToCast:
    """An int8 matrix, an input as matrix, and weights that no linear layer or embedding reads."""

    @R.function
    def main(
        x: R.Tensor(("n", 8), "float32"),
        matrix: R.Tensor((8, 8), "float32"),
        w: R.Tensor((8, 8), "int8"),
        scale: R.Tensor((8,), "float32"),
        norm: R.Tensor((8,), "float32"),
        other: R.Tensor((8, 8), "float32"),
    ):
        R.func_attr({"vamc.inputs": 2, "vamc.caches": 0})
        with R.dataflow():
            a = R.vamc.linear(x, matrix, bias=False, residual=False)
            b = R.vamc.linear(a, w, scale, bias=False, residual=False)
            c = R.vamc.rms_norm(b, norm, epsilon=1e-6)
            d = R.matmul(c, other)
            R.output(d)
        return d


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


@pytest.mark.parametrize("module", [NothingToCast, ReadAsFloatElsewhere])
def test_what_must_stay(module: Any) -> None:
    assert_unchanged(CastWeights(), module)
