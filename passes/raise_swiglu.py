"""raise-swiglu: silu(gate) * up becomes R.vamc.swiglu."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from vamc_py.dialect import swiglu
from vamc_py.pipeline.base import Context, Pass, Stage
from vamc_py.pipeline.graph import Graph
from vamc_py.pipeline.matching import same_shape, shape
from vamc_py.pipeline.program import Program


@dataclass(frozen=True)
class RaiseSwiglu(Pass):
    """``silu(gate) * up`` becomes ``R.vamc.swiglu(gate, up)``; silu as an operator or as ``x * sigmoid(x)``."""

    name: ClassVar[str] = "raise-swiglu"
    stage: ClassVar[Stage] = "raise"
    example: ClassVar[str] = """
@I.ir_module
class Module:
    @R.function
    def main(gate: R.Tensor((1, "n", 8), "float32"), up: R.Tensor((1, "n", 8), "float32")):
        R.func_attr({"vamc.inputs": 2})
        with R.dataflow():
            out = R.multiply(R.nn.silu(gate), up)
            R.output(out)
        return out
"""

    def apply(self, program: Program, context: Context) -> Program:
        graph = Graph(program.function)
        for var, _ in graph.calls("relax.multiply"):
            for activated, up in graph.either(var, "relax.multiply"):
                gate = _silu_argument(graph, activated)
                if gate is not None and same_shape(shape(gate), shape(up)):
                    graph.replace(var, swiglu(gate, up))
                    break
        return program.with_function(graph.rebuild())


def _silu_argument(graph: Graph, expression: Any) -> Any | None:
    call = graph.call(expression, "relax.nn.silu")
    if call is not None:
        return call.args[0]
    for x, factor in graph.either(expression, "relax.multiply"):
        sigmoid = graph.call(factor, "relax.sigmoid")
        if sigmoid is not None and graph.origin(sigmoid.args[0]) == graph.origin(x):
            return x
    return None
