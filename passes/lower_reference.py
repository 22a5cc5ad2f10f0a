"""lower-reference: an R.vamc operator without a kernel becomes TVM's own operators."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from vamc_py.dialect import operators
from vamc_py.pipeline.base import Context, Pass, Stage
from vamc_py.pipeline.graph import Graph, operator_name
from vamc_py.pipeline.program import Program

# Operators that cost nothing at run time: views, and what the virtual machine does itself.
_FREE = {"relax.reshape", "relax.call_tir", "relax.call_tir_inplace", "relax.expand_dims", "relax.squeeze"}


@dataclass(frozen=True)
class LowerReference(Pass):
    """Lowers what is left of the dialect by each operator's reference, and notes everything that will run on TVM's own
    unscheduled loops: that is right, and slow."""

    name: ClassVar[str] = "lower-reference"
    stage: ClassVar[Stage] = "lower"
    after: ClassVar[tuple[str, ...]] = ("select-kernels",)
    example: ClassVar[str] = """
@I.ir_module
class Module:
    @R.function
    def main(x: R.Tensor(("n", 8), "float32")):
        R.func_attr({"vamc.inputs": 1})
        with R.dataflow():
            out = R.vamc.swiglu(x)
            R.output(out)
        return out
"""

    def apply(self, program: Program, context: Context) -> Program:
        slow = slow_operators(program)
        while left_in_dialect(program):
            program = _lower(program)  # once more where a reference is written in operators of the dialect
        return program.note(*(f"{count} x {name} runs on TVM's unscheduled loops" for name, count in slow.items()))


def left_in_dialect(program: Program) -> bool:
    """Whether operators are left that nothing has lowered, so that the module cannot be built."""
    return any(operator_name(value) in operators() for value in Graph(program.function).values.values())


def slow_operators(program: Program) -> Counter[str]:
    """Operators for which no kernel was found, and how many calls of each."""
    names = (operator_name(value) for value in Graph(program.function).values.values())
    return Counter(name.removeprefix("relax.") for name in names if name and name not in _FREE)


def _lower(program: Program) -> Program:
    lowering = _Lowering(program.module)
    function = lowering.visit_expr(program.function)
    function = relax.Function(function.params, function.body, None, function.is_pure, function.attrs)
    module = tvm.IRModule(dict(lowering.builder_.get().functions_items()), attrs=program.module.attrs)
    return Program(module, program.plan, program.notes).with_function(function)


@mutator  # type: ignore[misc, unused-ignore]
class _Lowering(PyExprMutator):  # type: ignore[misc]
    def visit_call_(self, call: Any) -> Any:
        call = super().visit_call_(call)
        operator = operators().get(operator_name(call))
        return call if operator is None else operator.reference(self.builder_, call)
