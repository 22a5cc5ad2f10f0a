"""raise-swiglu: silu(gate) * up, and nothing that is close to it."""

from __future__ import annotations

from support.relax_modules import apply_passes, assert_rewrites, assert_same_results, assert_unchanged, program_of
from tvm.script import ir as I
from tvm.script import relax as R

import vamc_py.dialect  # noqa: F401
from vamc_py.passes.raise_swiglu import RaiseSwiglu


@I.ir_module
class Gates:
    """silu as an operator and written out, on either side."""

    @R.function
    def main(gate: R.Tensor((1, "n", 4), "float32"), up: R.Tensor((1, "n", 4), "float32")):
        R.func_attr({"vamc.inputs": 2})
        with R.dataflow():
            first = R.multiply(R.nn.silu(gate), up)
            second = R.multiply(up, R.nn.silu(first))
            third = R.multiply(R.multiply(second, R.sigmoid(second)), up)
            fourth = R.multiply(up, R.multiply(R.sigmoid(third), third))
            R.output(fourth)
        return fourth


@I.ir_module
class Raised:
    @R.function
    def main(gate: R.Tensor((1, "n", 4), "float32"), up: R.Tensor((1, "n", 4), "float32")):
        R.func_attr({"vamc.inputs": 2})
        with R.dataflow():
            first = R.vamc.swiglu(gate, up)
            second = R.vamc.swiglu(first, up)
            third = R.vamc.swiglu(second, up)
            fourth = R.vamc.swiglu(third, up)
            R.output(fourth)
        return fourth


@I.ir_module
class OtherGates:
    """Another activation, a sigmoid of something else, an up projection that is broadcast, silu without a product."""

    @R.function
    def main(
        gate: R.Tensor((1, "n", 4), "float32"),
        up: R.Tensor((1, "n", 4), "float32"),
        column: R.Tensor((1, "n", 1), "float32"),
    ):
        R.func_attr({"vamc.inputs": 3})
        with R.dataflow():
            gelu = R.multiply(R.nn.gelu(gate), up)
            glu = R.multiply(gate, R.sigmoid(up))
            mixed = R.multiply(glu, up)
            broadcast = R.multiply(R.nn.silu(gate), column)
            alone = R.nn.silu(gate)
            gv = (gelu, mixed, broadcast, alone)
            R.output(gv)
        return gv


def test_gates_become_swiglu() -> None:
    assert_rewrites(RaiseSwiglu(), Gates, Raised)


def test_other_gates_stay() -> None:
    assert_unchanged(RaiseSwiglu(), OtherGates)


def test_results_stay() -> None:
    program = program_of(Gates)
    assert_same_results(program, apply_passes(program, RaiseSwiglu()), {"n": 3})
