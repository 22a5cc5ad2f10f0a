"""keep-quantized: weights that come quantized become parameters of their format; what cannot be kept is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tvm
from support.relax_modules import Compiled, assert_unchanged, context_for, program_of
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from vamc_py.errors import CheckpointError
from vamc_py.passes.keep_quantized import KeepQuantized
from vamc_py.passes.merge_linear import MergeLinear
from vamc_py.pipeline.graph import Graph
from vamc_py.pipeline.program import Program, layout
from vamc_py.weights.formats import WeightFormat
from vamc_py.weights.plan import Cast, Recipe
from vamc_py.weights.source import PlanSource

INT4 = WeightFormat("int4", 32, zeros=True, scale="float16")
FLOAT8 = WeightFormat("float8_e4m3fn", 128)


@I.ir_module
class Before:
    @R.function
    def main(
        x: R.Tensor(("n", 40), "float32"),
        up: R.Tensor((70, 40), "float32"),
        down: R.Tensor((40, 70), "float32"),
    ):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            y = R.vamc.linear(x, up, bias=False, residual=False)
            z = R.vamc.linear(y, down, x, bias=False, residual=True)
            R.output(z)
        return z


@I.ir_module
class Expected:
    @R.function
    def main(
        x: R.Tensor(("n", 40), "float32"),
        up: R.Tensor((70, 40), "int8"),
        up_scale: R.Tensor((70, 2), "float16"),
        up_zero: R.Tensor((70, 2), "int8"),
        down: R.Tensor((40, 70), "float8_e4m3fn"),
        down_scale: R.Tensor((40, 1), "float32"),
    ):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            y = R.vamc.linear(x, up, up_scale, up_zero, bias=False, residual=False, bits=4, group=32, zeros=True)
            z = R.vamc.linear(y, down, down_scale, x, bias=False, residual=True, group=128)
            R.output(z)
        return z


def keep(module: Any, **formats: WeightFormat) -> Program:
    return KeepQuantized().apply(program_of(module), replace(context_for("int8"), formats=formats))


def test_each_weight_takes_the_format_it_comes_in() -> None:
    after = keep(Before, up=INT4, down=FLOAT8)
    relax.analysis.well_formed(after.module)
    got, wanted = (Graph(program.function).rebuild() for program in (after, program_of(Expected)))
    tvm.ir.assert_structural_equal(got, wanted)
    assert after.plan["up"] == Recipe(("up.values",))
    assert after.plan["up.zero"] == Recipe(("up.zero",))
    assert after.plan["down.scale"] == Recipe(("down.scale",))


def test_without_quantized_weights_nothing_changes() -> None:
    assert_unchanged(KeepQuantized(), Before)


class Checkpoint:
    """The weights of ``Before`` as a quantized checkpoint has them."""

    def __init__(self) -> None:
        rng = np.random.default_rng(2)
        codes = rng.integers(0, 120, (40, 70)).astype(np.uint8)
        import ml_dtypes

        self.arrays: dict[str, Any] = {
            "up": rng.integers(-8, 8, (70, 40)).astype(np.int8),
            "up.scale": rng.uniform(0.01, 0.02, (70, 2)).astype(np.float16),
            "up.zero": rng.integers(-8, 8, (70, 2)).astype(np.int8),
            "down": codes.view(ml_dtypes.float8_e4m3fn),
            "down.scale": rng.uniform(0.01, 0.02, (40, 1)).astype(np.float32),
        }
        self.quantized = {"up": INT4, "down": FLOAT8}
        self.tensors = self.arrays  # arrays have a shape, which is all that is asked

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Any:
        return self.arrays[name][start:stop]


def test_the_result_is_that_of_the_dequantized_weights() -> None:
    source = PlanSource(Checkpoint())  # type: ignore[arg-type]
    before, after = program_of(Before), keep(Before, up=INT4, down=FLOAT8)
    x = np.random.default_rng(3).standard_normal((5, 40)).astype(np.float32)
    results = []
    for program in (before, after):
        made = []
        for weight in layout(program.function)[2]:
            recipe = program.plan[weight.name]
            block: Any = source.read(recipe.sources[0])
            for step in recipe.steps:
                block = step.apply(block)
            made.append(block)
        [result] = Compiled(program)(x, *made)
        results.append(result)
    assert np.abs(results[0]).max() > 1
    np.testing.assert_allclose(results[1], results[0], rtol=1e-5, atol=1e-5)


@I.ir_module
class ReadElsewhere:
    @R.function
    def main(x: R.Tensor(("n", 8), "float32"), up: R.Tensor((8, 8), "float32")):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            y = R.vamc.linear(x, up, bias=False, residual=False)
            z = R.matmul(y, up)
            R.output(z)
        return z


def test_a_weight_that_something_else_reads_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"up: comes quantized, .* use the unquantized checkpoint"):
        keep(ReadElsewhere, up=INT4)


def test_a_weight_that_a_pass_has_changed_is_refused() -> None:
    program = program_of(Before)
    plan = program.plan.with_recipes({"up": program.plan["up"].then(Cast("float16"), Cast("float32"))})
    with pytest.raises(CheckpointError, match="comes quantized"):
        KeepQuantized().apply(
            program.with_function(program.function, plan=plan), replace(context_for("int8"), formats={"up": INT4})
        )


@I.ir_module
class Siblings:
    @R.function
    def main(
        x: R.Tensor(("n", 40), "float32"),
        q: R.Tensor((70, 40), "float32"),
        k: R.Tensor((40, 40), "float32"),
        v: R.Tensor((40, 40), "float32"),
    ):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            a = R.vamc.linear(x, q, bias=False, residual=False)
            b = R.vamc.linear(x, k, bias=False, residual=False)
            c = R.vamc.linear(x, v, bias=False, residual=False)
            out = R.concat((a, b, c), axis=-1)
            R.output(out)
        return out


def test_only_layers_of_one_format_are_merged() -> None:
    context = replace(context_for("int8"), formats={"q": INT4, "k": FLOAT8, "v": INT4})
    merged = MergeLinear().apply(program_of(Siblings), context)
    assert [weight.name for weight in layout(merged.function)[2]] == ["k", "q+v"]
    kept = KeepQuantized().apply(merged, context)
    assert kept.plan["q+v.zero"] == Recipe(("q.zero", "v.zero"))


def test_only_layers_of_one_rule_are_merged() -> None:
    merged = MergeLinear(rules=("v=w8a16", "*=w4a16")).apply(program_of(Siblings), context_for("int8"))
    assert [weight.name for weight in layout(merged.function)[2]] == ["v", "q+k"]
