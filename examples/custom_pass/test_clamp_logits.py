"""clamp-logits: what becomes what, what stays, and the numbers."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from clamp_logits import ClampLogits
from tvm import relax

from vamc_py.passes.lower_reference import LowerReference
from vamc_py.pipeline.base import Context
from vamc_py.pipeline.build import lowering
from vamc_py.pipeline.program import Program
from vamc_py.target.description import this_machine
from vamc_py.weights.plan import ParameterPlan

CONTEXT = Context(this_machine("fp32"), prefill=16, context=64)
BEFORE = Program(tvm.script.from_source(ClampLogits.example), ParameterPlan())
EXPECTED = """
@I.ir_module
class Module:
    @R.function
    def step(hidden: R.Tensor(("m", 8), "float32"), weight: R.Tensor((16, 8), "float32")):
        R.func_attr({"vamc.inputs": 1})
        with R.dataflow():
            logits = R.vamc.linear(hidden, weight, bias=False, residual=False)
            clipped = R.clip(logits, T.float64(-2), T.float64(2))
            result = clipped
            R.output(result)
        return result
"""


def run(program: Program, *arrays: np.ndarray) -> np.ndarray:
    """What the program computes, by each operator's reference."""
    module = LowerReference().apply(program, CONTEXT).module
    executable = tvm.compile(module, target=CONTEXT.target.tvm_target(), relax_pipeline=lowering())
    step = relax.VirtualMachine(executable, tvm.cpu())["step"]
    return step(*(tvm.runtime.tensor(array) for array in arrays)).numpy()


def test_the_logits_are_clipped() -> None:
    after = ClampLogits(limit=2.0).apply(BEFORE, CONTEXT)
    tvm.ir.assert_structural_equal(after.module, tvm.script.from_source(EXPECTED))


@pytest.mark.parametrize("limit", [2.0, 3.0])
def test_logits_within_the_limit_stay(limit: float) -> None:
    once = ClampLogits(limit=2.0).apply(BEFORE, CONTEXT)
    again = ClampLogits(limit=limit).apply(once, CONTEXT)
    assert again.module is once.module
    assert again.notes == ("clamp-logits did not fire: the model bounds its logits by itself",)


def test_a_wider_clip_is_not_enough() -> None:
    once = ClampLogits(limit=2.0).apply(BEFORE, CONTEXT)
    again = ClampLogits(limit=1.0).apply(once, CONTEXT)
    assert again.module.script().count("R.clip") == 2


def test_the_values() -> None:
    random = np.random.default_rng(0)
    hidden, weight = (random.standard_normal(shape).astype("float32") for shape in ((5, 8), (16, 8)))
    plain = run(BEFORE, hidden, weight)
    assert np.abs(plain).max() > 2
    clamped = run(ClampLogits(limit=2.0).apply(BEFORE, CONTEXT), hidden, weight)
    np.testing.assert_array_equal(clamped, plain.clip(-2, 2))


def test_a_limit_is_above_zero() -> None:
    with pytest.raises(ValueError, match="limit is 0; it must be above 0"):
        ClampLogits(limit=0)
