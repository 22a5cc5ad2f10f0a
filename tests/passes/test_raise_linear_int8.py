"""raise-linear: an int8 weight and its scales around a product become R.vamc.linear."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from support.checkpoints import model_config
from support.relax_modules import (
    MainModel,
    apply_passes,
    assert_rewrites,
    assert_same_results,
    assert_unchanged,
    operators_in,
    program_of,
)
from support.run_torch import built_in, random_step, random_weights
from tvm.script import ir as I
from tvm.script import relax as R

from vamc_py.frontend.import_relax import import_traced
from vamc_py.frontend.model_config import ModelConfig
from vamc_py.frontend.trace import trace_module
from vamc_py.passes.raise_linear import RaiseLinear
from vamc_py.passes.simplify import Simplify


@I.ir_module
class ScaledWeight:
    """A QuantizedLinear of a patched model."""

    @R.function
    def main(
        x: R.Tensor((1, "n", 6), "float32"),
        weight: R.Tensor((5, 6), "int8"),
        scale: R.Tensor((5,), "float32"),
        bias: R.Tensor((5,), "float32"),
    ):
        R.func_attr({"vamc.inputs": 1})
        with R.dataflow():
            values = R.multiply(R.astype(weight, "float32"), R.expand_dims(scale, axis=[1]))
            product = R.matmul(x, R.permute_dims(values, axes=[1, 0]))
            out = R.add(product, bias)
            R.output(out)
        return out


@I.ir_module
class ScaledProduct:
    """The ONNX node QuantizedLinearPerChannel, and a bias in front."""

    @R.function
    def main(
        x: R.Tensor((1, "n", 6), "float32"),
        weight: R.Tensor((5, 6), "int8"),
        scale: R.Tensor((5,), "float32"),
        bias: R.Tensor((5,), "float32"),
    ):
        R.func_attr({"vamc.inputs": 1})
        with R.dataflow():
            product = R.matmul(x, R.permute_dims(R.astype(weight, "float32"), axes=[1, 0]))
            out = R.add(bias, R.multiply(product, scale))
            R.output(out)
        return out


@I.ir_module
class Expected:
    @R.function
    def main(
        x: R.Tensor((1, "n", 6), "float32"),
        weight: R.Tensor((5, 6), "int8"),
        scale: R.Tensor((5,), "float32"),
        bias: R.Tensor((5,), "float32"),
    ):
        R.func_attr({"vamc.inputs": 1})
        with R.dataflow():
            out = R.vamc.linear(x, weight, scale, bias, bias=True, residual=False)
            R.output(out)
        return out


def test_both_ways_become_the_same() -> None:
    for before in (ScaledWeight, ScaledProduct):
        assert_rewrites(RaiseLinear(), before, Expected)


def test_the_numbers_stay() -> None:
    for module in (ScaledWeight, ScaledProduct):
        before = program_of(module)
        assert_same_results(before, apply_passes(before, RaiseLinear()), {"n": 3}, below=100)


def test_scales_that_are_not_one_a_row_stay() -> None:
    @I.ir_module
    class OneAColumn:
        @R.function
        def main(
            x: R.Tensor((1, "n", 5), "float32"),
            weight: R.Tensor((5, 5), "int8"),
            scale: R.Tensor((5,), "float32"),
        ):
            R.func_attr({"vamc.inputs": 1})
            with R.dataflow():
                values = R.multiply(R.astype(weight, "float32"), scale)
                out = R.matmul(x, R.permute_dims(values, axes=[1, 0]))
                R.output(out)
            return out

    assert_unchanged(RaiseLinear(), OneAColumn)


def test_a_product_that_something_else_reads_unscaled_stays() -> None:
    @I.ir_module
    class ReadTwice:
        @R.function
        def main(
            x: R.Tensor((1, "n", 6), "float32"),
            weight: R.Tensor((5, 6), "int8"),
            scale: R.Tensor((5,), "float32"),
        ):
            R.func_attr({"vamc.inputs": 1})
            with R.dataflow():
                product = R.matmul(x, R.permute_dims(R.astype(weight, "float32"), axes=[1, 0]))
                out = R.add(R.multiply(product, scale), product)
                R.output(out)
            return out

    assert_unchanged(RaiseLinear(), ReadTwice)


def test_scales_that_are_computed_stay() -> None:
    @I.ir_module
    class Computed:
        @R.function
        def main(
            x: R.Tensor((1, "n", 6), "float32"),
            weight: R.Tensor((5, 6), "int8"),
            scale: R.Tensor((5,), "float32"),
        ):
            R.func_attr({"vamc.inputs": 1})
            with R.dataflow():
                product = R.matmul(x, R.permute_dims(R.astype(weight, "float32"), axes=[1, 0]))
                out = R.multiply(product, R.exp(scale))
                R.output(out)
            return out

    assert_unchanged(RaiseLinear(), Computed)


@torch.no_grad()
def test_a_quantized_model_traces_to_int8_layers() -> None:
    """``model.quantize()``: seven a layer with an int8 weight; lm_head stays float. torch computes the same."""
    model = ModelConfig.from_hf(model_config(architecture="qwen2", layers=1))
    weights = random_weights(model)
    module = built_in(model, weights)
    module.quantize(8)
    program = apply_passes(import_traced(trace_module(module, model, mask="additive")), Simplify(), RaiseLinear())
    calls: list[Any] = [value for value in _values(program) if getattr(value, "op", None) is not None]
    kinds = [str(call.args[1].ty.dtype) for call in calls if call.op.name == "relax.vamc.linear"]
    assert sorted(kinds) == ["float32", *["int8"] * 7]
    assert operators_in(program)["matmul"] == 2  # of attention
    step = random_step(model, 5, 3)
    expected, _ = module(**step.arguments("additive"))
    past = [part.numpy() for pair in step.past for part in pair]
    run = MainModel(program, weights)
    mask = step.mask("additive").numpy()
    logits = run(step.input_ids.numpy(), mask, step.position_ids.numpy(), past)[0]
    np.testing.assert_allclose(logits, expected.numpy(), rtol=0, atol=1e-5 * float(expected.abs().max()))


def _values(program: Any) -> list[Any]:
    return [binding.value for block in program.function.body.blocks for binding in block.bindings]
