"""quantize-int4: which weights take four bits, their parameters, and the values that follow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.relax_modules import Compiled, apply_passes, assert_rewrites, assert_unchanged, program_of
from tvm.script import ir as I
from tvm.script import relax as R

from vamc_py.passes.quantize_int4 import QuantizeInt4
from vamc_py.pipeline.program import layout
from vamc_py.weights.formats import WeightFormat
from vamc_py.weights.plan import Cast, QuantizeGroups


@I.ir_module
class Before:
    """A tied model in small: embedding, two layers, the output projection."""

    @R.function
    def main(
        tokens: R.Tensor(("n",), "int32"),
        table: R.Tensor((9, 40), "float32"),
        up: R.Tensor((70, 40), "float32"),
        down: R.Tensor((40, 70), "float32"),
        bias: R.Tensor((40,), "float32"),
    ):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            x = R.vamc.embedding(tokens, table)
            y = R.vamc.linear(x, up, bias=False, residual=False)
            z = R.vamc.linear(y, down, bias, x, bias=True, residual=True)
            logits = R.vamc.linear(z, table, bias=False, residual=False)
            R.output(logits)
        return logits


@I.ir_module
class Symmetric:
    @R.function
    def main(
        tokens: R.Tensor(("n",), "int32"),
        table: R.Tensor((9, 40), "float32"),
        up: R.Tensor((70, 40), "int8"),
        up_scale: R.Tensor((70, 2), "float16"),
        down: R.Tensor((40, 70), "int8"),
        down_scale: R.Tensor((40, 3), "float16"),
        bias: R.Tensor((40,), "float32"),
    ):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            x = R.vamc.embedding(tokens, table)
            y = R.vamc.linear(x, up, up_scale, bias=False, residual=False, bits=4, group=32)
            z = R.vamc.linear(y, down, down_scale, bias, x, bias=True, residual=True, bits=4, group=32)
            logits = R.vamc.linear(z, table, bias=False, residual=False)
            R.output(logits)
        return logits


@I.ir_module
class OnlyDown:
    @R.function
    def main(
        tokens: R.Tensor(("n",), "int32"),
        table: R.Tensor((9, 40), "float32"),
        up: R.Tensor((70, 40), "float32"),
        down: R.Tensor((40, 70), "int8"),
        down_scale: R.Tensor((40, 1), "float16"),
        down_zero: R.Tensor((40, 1), "int8"),
        bias: R.Tensor((40,), "float32"),
    ):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            x = R.vamc.embedding(tokens, table)
            y = R.vamc.linear(x, up, bias=False, residual=False)
            z = R.vamc.linear(
                y, down, down_scale, down_zero, bias, x, bias=True, residual=True, bits=4, group=128, zeros=True
            )
            logits = R.vamc.linear(z, table, bias=False, residual=False)
            R.output(logits)
        return logits


def test_linear_layers_of_the_decoder_take_four_bits() -> None:
    assert_rewrites(QuantizeInt4(group=32), Before, Symmetric)


def test_rules_pick_weights_by_the_first_that_fits() -> None:
    rules = ("up=w8a16", "*=w4a16", "down=fp16")
    assert_rewrites(QuantizeInt4(zeros=True, rules=rules), Before, OnlyDown)


@pytest.mark.parametrize("rules", [("*=w8a16",), ("nothing=w4a16",)])
def test_other_types_do_not_fire(rules: tuple[str, ...]) -> None:
    assert_unchanged(QuantizeInt4(rules=rules), Before)


def test_weights_that_have_a_format_already_stay() -> None:
    assert_unchanged(QuantizeInt4(group=32), Symmetric)


@pytest.mark.parametrize("group", [0, 8, 40])
def test_a_group_is_whole_vectors(group: int) -> None:
    with pytest.raises(ValueError, match=f"multiple of 16 columns, not {group}"):
        QuantizeInt4(group=group)


@pytest.mark.parametrize("zeros", [False, True])
def test_the_result_is_that_of_the_dequantized_weights(zeros: bool) -> None:
    rng = np.random.default_rng(1)
    before = program_of(Before)
    after = apply_passes(before, QuantizeInt4(group=32, zeros=zeros))
    shapes = {"table": (9, 40), "up": (70, 40), "down": (40, 70), "bias": (40,)}
    checkpoint: dict[str, Any] = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    made: dict[str, Any] = {}
    for weight in layout(after.function)[2]:
        recipe = after.plan[weight.name]
        made[weight.name] = checkpoint[recipe.sources[0]]
        for step in recipe.steps:
            made[weight.name] = step.apply(made[weight.name])
    assert after.plan["up"].steps == (Cast("float32"), QuantizeGroups("values", "int4", 32, zeros, "float16"))
    form = WeightFormat("int4", 32, zeros, "float16")
    dequantized = dict(checkpoint)
    for name in ("up", "down"):
        dequantized[name] = form.dequantize(made[name], made[f"{name}.scale"], made.get(f"{name}.zero"))
        error = np.abs(dequantized[name] - checkpoint[name]).max()
        assert 0 < error < 0.7  # of weights up to about 4, in 16 steps
    tokens = np.array([8, 0, 3], np.int32)
    [got], [want] = Compiled(after)(tokens, *made.values()), Compiled(before)(tokens, *dequantized.values())
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-3)
