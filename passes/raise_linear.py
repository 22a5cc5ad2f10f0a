"""raise-linear: products with a transposed weight become R.vamc.linear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from vamc_py.dialect import linear
from vamc_py.pipeline.base import Context, Pass, Stage
from vamc_py.pipeline.graph import Graph
from vamc_py.pipeline.matching import same_dimension, shape
from vamc_py.pipeline.program import Program, layout


@dataclass(frozen=True)
class RaiseLinear(Pass):
    """``matmul(x, permute_dims(weight)) [+ bias]`` becomes ``R.vamc.linear(x, weight[, bias])``.

    Weight and bias must be parameters; a product of two activations is left alone.
    """

    name: ClassVar[str] = "raise-linear"
    stage: ClassVar[Stage] = "raise"
    example: ClassVar[str] = """
@I.ir_module
class Module:
    @R.function
    def main(
        x: R.Tensor(("n", 8), "float32"),
        weight: R.Tensor((4, 8), "float32"),
        bias: R.Tensor((4,), "float32"),
    ):
        R.func_attr({"vamc.inputs": 1})
        with R.dataflow():
            product = R.matmul(x, R.permute_dims(weight, axes=[1, 0]))
            out = R.add(product, bias)
            R.output(out)
        return out
"""

    def apply(self, program: Program, context: Context) -> Program:
        graph = Graph(program.function)
        weights = set(layout(program.function)[2])
        for var, call in graph.calls("relax.matmul"):
            weight = _untransposed(graph, call.args[1])
            if weight in weights and len(shape(call.args[0])) > 1:
                graph.replace(var, linear(call.args[0], weight))
                _absorb_bias(graph, var, weights)
        return program.with_function(graph.rebuild())


def _untransposed(graph: Graph, expression: Any) -> Any | None:
    """w [N, K] of ``permute_dims(w)`` [K, N]."""
    call = graph.call(expression, "relax.permute_dims")
    if call is None or len(shape(call)) != 2:
        return None
    axes = [1, 0] if call.attrs.axes is None else [int(axis) % 2 for axis in call.attrs.axes]
    return call.args[0] if axes == [1, 0] else None


def _absorb_bias(graph: Graph, var: Any, weights: set[Any]) -> None:
    call, user = graph.values[var], graph.only_user(var)
    for product, bias in graph.either(user, "relax.add") if user is not None else []:
        one_a_row = bias in weights and len(shape(bias)) == 1 and same_dimension(shape(bias)[0], shape(var)[-1])
        if product == var and one_a_row:
            graph.replace(user, linear(*call.args, bias, bias=True))
            return
