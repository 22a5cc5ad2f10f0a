"""prune-weights: what the step does, and whose recipes have it."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from prune_weights import PruneWeights, ZeroSmallest

import vamc_py.dialect  # noqa: F401  (TVMScript knows R.vamc from then on)
from vamc_py.pipeline.base import Context
from vamc_py.pipeline.program import Program
from vamc_py.target.description import this_machine
from vamc_py.weights.plan import Cast, ParameterPlan, Recipe

CONTEXT = Context(this_machine("fp32"), prefill=16, context=64)
# The table serves as embedding and as lm_head; between them is one linear layer.
MODULE = """
@I.ir_module
class Module:
    @R.function
    def step(tokens: R.Tensor(("n",), "int32"), table: R.Tensor((16, 8), "float32"), weight: R.Tensor((8, 8), TYPE)):
        R.func_attr({"vamc.inputs": 1})
        with R.dataflow():
            hidden = R.vamc.embedding(tokens, table)
            changed = R.vamc.linear(hidden, weight, bias=False, residual=False)
            logits = R.vamc.linear(changed, table, bias=False, residual=False)
            R.output(logits)
        return logits
"""


def program(dtype: str) -> Program:
    recipes = {name: Recipe((name,), (Cast(dtype),)) for name in ("table", "weight")}
    return Program(tvm.script.from_source(MODULE.replace("TYPE", repr(dtype))), ParameterPlan(recipes))


def test_the_smallest_of_each_row_go() -> None:
    block = np.array([[3, -1, 2, -4], [-5, 8, 7, 6]], "float32")
    expected = np.array([[3, 0, 0, -4], [0, 8, 7, 0]], "float32")
    np.testing.assert_array_equal(ZeroSmallest(0.5).apply(block), expected)


def test_only_the_linear_layer_is_pruned() -> None:
    before = program("float32")
    after = PruneWeights(share=0.5).apply(before, CONTEXT)
    tvm.ir.assert_structural_equal(after.module, before.module)
    assert after.plan["weight"].steps == (Cast("float32"), ZeroSmallest(0.5))
    assert after.plan["table"] == before.plan["table"]


def test_other_types_stay() -> None:
    before = program("float16")
    after = PruneWeights().apply(before, CONTEXT)
    assert after.plan == before.plan
    assert after.notes == ("prune-weights did not fire: no linear layer has float32 weights at this place",)


def test_a_share_is_below_one() -> None:
    with pytest.raises(ValueError, match=r"share is 1\.0; it must be from 0 to below 1"):
        PruneWeights(share=1.0)
