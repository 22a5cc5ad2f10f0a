"""merge-linear: layers of one input become one, with the weights below each other in the parameter plan."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.relax_modules import Compiled, apply_passes, assert_rewrites, assert_unchanged, operators_in, program_of
from tvm.script import ir as I
from tvm.script import relax as R

from vamc_py.passes.merge_linear import MergeLinear, _merged_name
from vamc_py.pipeline.program import Program, layout
from vamc_py.weights.plan import Cast, Recipe


@I.ir_module
class Before:
    @R.function
    def main(
        x: R.Tensor(("n", 8), "float32"),
        q: R.Tensor((4, 8), "float32"),
        other: R.Tensor((6, 4), "float32"),
        k: R.Tensor((2, 8), "float32"),
        v: R.Tensor((6, 8), "float32"),
        q_bias: R.Tensor((4,), "float32"),
        k_bias: R.Tensor((2,), "float32"),
        v_bias: R.Tensor((6,), "float32"),
    ):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            a = R.vamc.linear(x, q, q_bias, bias=True, residual=False)
            b = R.vamc.linear(x, k, k_bias, bias=True, residual=False)
            c = R.vamc.linear(x, v, v_bias, bias=True, residual=False)
            d = R.vamc.linear(a, other, bias=False, residual=False)
            R.output(b, c, d)
        return (d, b, c)


@I.ir_module
class Expected:
    @R.function
    def main(
        x: R.Tensor(("n", 8), "float32"),
        other: R.Tensor((6, 4), "float32"),
        weight: R.Tensor((12, 8), "float32"),
        bias: R.Tensor((12,), "float32"),
    ):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            merged = R.vamc.linear(x, weight, bias, bias=True, residual=False)
            parts = R.split(merged, [4, 6], axis=1)
            a = parts[0]
            d = R.vamc.linear(a, other, bias=False, residual=False)
            b = parts[1]
            c = parts[2]
            out = (d, b, c)
            R.output(out)
        return out


def weights_of(program: Program) -> list[str]:
    return [weight.name for weight in layout(program.function)[2]]


def test_three_layers_with_bias_become_one_and_a_split() -> None:
    assert_rewrites(MergeLinear(), Before, Expected)


def test_the_plan_puts_the_sources_below_each_other_in_the_order_of_the_split() -> None:
    after = apply_passes(program_of(Before), MergeLinear())
    assert weights_of(after) == list(after.plan) == ["other", "q+k+v", "q_bias+k_bias+v_bias"]
    assert after.plan["q+k+v"] == Recipe(("q", "k", "v"), (Cast("float32"),))
    assert after.plan["q_bias+k_bias+v_bias"].sources == ("q_bias", "k_bias", "v_bias")


def assert_merged_computes_the_same(module: Any) -> Program:
    """Values by the plan of each program, from the same checkpoint, give the same results."""
    rng = np.random.default_rng(3)
    before = program_of(module)
    after = apply_passes(before, MergeLinear())
    x = rng.standard_normal([3 if str(d) == "n" else int(d) for d in before.function.params[0].ty.shape], np.float32)
    checkpoint = {
        w.name: rng.standard_normal([int(d) for d in w.ty.shape], np.float32) for w in layout(before.function)[2]
    }
    results = []
    for program in (before, after):
        made = [np.concatenate([checkpoint[s] for s in program.plan[name].sources]) for name in weights_of(program)]
        results.append(Compiled(program)(x, *made))
    for left, right in zip(*results, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-5)
    return after


def test_the_merged_layer_computes_the_same() -> None:
    assert_merged_computes_the_same(Before)


@I.ir_module
class WithBatch:
    @R.function
    def main(x: R.Tensor((1, "n", 8), "float32"), gate: R.Tensor((4, 8), "float32"), up: R.Tensor((4, 8), "float32")):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            a = R.vamc.linear(x, gate, bias=False, residual=False)
            b = R.vamc.linear(x, up, bias=False, residual=False)
            out = R.vamc.swiglu(a, b)
            R.output(out)
        return out


def test_a_batch_dimension_is_no_obstacle() -> None:
    after = assert_merged_computes_the_same(WithBatch)
    assert operators_in(after)["vamc.linear"] == 1


@I.ir_module
class OnlySomeHaveABias:
    @R.function
    def main(
        x: R.Tensor(("n", 8), "float32"),
        a: R.Tensor((4, 8), "float32"),
        b: R.Tensor((4, 8), "float32"),
        bias: R.Tensor((4,), "float32"),
    ):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            y = R.vamc.linear(x, a, bias, bias=True, residual=False)
            z = R.vamc.linear(x, b, bias=False, residual=False)
            out = R.add(y, z)
            R.output(out)
        return out


@I.ir_module
class DifferentInputs:
    @R.function
    def main(
        x: R.Tensor(("n", 8), "float32"),
        y: R.Tensor(("n", 8), "float32"),
        a: R.Tensor((4, 8), "float32"),
        b: R.Tensor((4, 8), "float32"),
    ):
        R.func_attr({"vamc.inputs": 2, "vamc.caches": 0})
        with R.dataflow():
            left = R.vamc.linear(x, a, bias=False, residual=False)
            right = R.vamc.linear(y, b, bias=False, residual=False)
            out = R.add(left, right)
            R.output(out)
        return out


@I.ir_module
class SharedWeight:
    @R.function
    def main(
        x: R.Tensor(("n", 8), "float32"),
        y: R.Tensor(("n", 8), "float32"),
        a: R.Tensor((4, 8), "float32"),
        b: R.Tensor((4, 8), "float32"),
    ):
        R.func_attr({"vamc.inputs": 2, "vamc.caches": 0})
        with R.dataflow():
            first = R.vamc.linear(x, a, bias=False, residual=False)
            second = R.vamc.linear(x, b, bias=False, residual=False)
            third = R.vamc.linear(y, a, bias=False, residual=False)
            total = R.add(first, second)
            out = R.add(total, third)
            R.output(out)
        return out


@I.ir_module
class SharedBias:
    @R.function
    def main(
        x: R.Tensor(("n", 8), "float32"),
        a: R.Tensor((4, 8), "float32"),
        b: R.Tensor((4, 8), "float32"),
        bias: R.Tensor((4,), "float32"),
    ):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            y = R.vamc.linear(x, a, bias, bias=True, residual=False)
            z = R.vamc.linear(x, b, bias, bias=True, residual=False)
            out = R.add(y, z)
            R.output(out)
        return out


@I.ir_module
class WithResidual:
    @R.function
    def main(x: R.Tensor(("n", 8), "float32"), a: R.Tensor((8, 8), "float32"), b: R.Tensor((8, 8), "float32")):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            y = R.vamc.linear(x, a, x, bias=False, residual=True)
            z = R.vamc.linear(x, b, y, bias=False, residual=True)
            R.output(z)
        return z


@I.ir_module
class Quantized:
    @R.function
    def main(
        x: R.Tensor(("n", 8), "float32"),
        a: R.Tensor((8, 8), "int8"),
        a_scale: R.Tensor((8,), "float32"),
        b: R.Tensor((8, 8), "int8"),
        b_scale: R.Tensor((8,), "float32"),
    ):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            y = R.vamc.linear(x, a, a_scale, bias=False, residual=False)
            z = R.vamc.linear(x, b, b_scale, bias=False, residual=False)
            out = R.add(y, z)
            R.output(out)
        return out


@I.ir_module
class ComputedWeights:
    @R.function
    def main(x: R.Tensor(("n", 8), "float32"), a: R.Tensor((8, 4), "float32"), b: R.Tensor((8, 4), "float32")):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            left = R.permute_dims(a)
            y = R.vamc.linear(x, left, bias=False, residual=False)
            right = R.permute_dims(b)
            z = R.vamc.linear(x, right, bias=False, residual=False)
            out = R.add(y, z)
            R.output(out)
        return out


@pytest.mark.parametrize(
    "module",
    [
        OnlySomeHaveABias, DifferentInputs, SharedWeight, SharedBias, WithResidual, Quantized, ComputedWeights,
    ],
)  # fmt: skip
def test_what_must_not_be_merged(module: Any) -> None:
    assert_unchanged(MergeLinear(), module)


def test_layers_whose_weights_are_made_differently_are_a_fault_of_the_pass_list() -> None:
    program = program_of(WithBatch)
    plan = program.plan.with_recipes({"up": Recipe(("up",), (Cast("float16"),))})
    with pytest.raises(ValueError, match="made differently cannot be merged"):
        apply_passes(Program(program.module, plan), MergeLinear())


@pytest.mark.parametrize(
    ("names", "merged"),
    [
        (["m.0.attn.q.weight", "m.0.attn.k.weight"], "m.0.attn.q+k.weight"),
        (["a.weight", "b.c.weight"], "a.weight+b.c.weight"),
        (["q", "k", "v"], "q+k+v"),
    ],
)
def test_names_of_merged_parameters(names: list[str], merged: str) -> None:
    assert _merged_name(names) == merged
