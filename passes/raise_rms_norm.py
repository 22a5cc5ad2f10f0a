"""raise-rms-norm: RMSNorm written out becomes R.vamc.rms_norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from vamc_py.dialect import rms_norm
from vamc_py.pipeline.base import Context, Pass, Stage
from vamc_py.pipeline.graph import Graph
from vamc_py.pipeline.matching import same_dimension, scalar, shape
from vamc_py.pipeline.program import Program, layout


@dataclass(frozen=True)
class RaiseRmsNorm(Pass):
    """``weight * (x * rsqrt(mean(x**2, -1) + eps))`` becomes ``R.vamc.rms_norm(x, weight, epsilon=eps)``."""

    name: ClassVar[str] = "raise-rms-norm"
    stage: ClassVar[Stage] = "raise"
    example: ClassVar[str] = """
@I.ir_module
class Module:
    @R.function
    def main(x: R.Tensor((1, "n", 8), "float32"), weight: R.Tensor((8,), "float32")):
        R.func_attr({"vamc.inputs": 1})
        with R.dataflow():
            mean = R.mean(R.power(x, R.const(2.0, "float32")), axis=[-1], keepdims=True)
            inverse = R.rsqrt(R.add(mean, R.const(1e-6, "float32")))
            out = R.multiply(weight, R.multiply(x, inverse))
            R.output(out)
        return out
"""

    def apply(self, program: Program, context: Context) -> Program:
        graph = Graph(program.function)
        weights = set(layout(program.function)[2])
        for var, _ in graph.calls("relax.multiply"):
            for weight, normalized in graph.either(var, "relax.multiply"):
                if weight not in weights or len(shape(weight)) != 1:
                    continue
                found = _normalized(graph, normalized)
                if found and same_dimension(shape(found[0])[-1], shape(weight)[0]):
                    graph.replace(var, rms_norm(found[0], weight, epsilon=found[1]))
                    break
        return program.with_function(graph.rebuild())


def _normalized(graph: Graph, expression: Any) -> tuple[Any, float] | None:
    """(x, epsilon) of ``x * rsqrt(mean(x**2) + epsilon)`` or ``x / sqrt(…)``."""
    candidates = [(x, graph.call(factor, "relax.rsqrt")) for x, factor in graph.either(expression, "relax.multiply")]
    quotient = graph.call(expression, "relax.divide")
    if quotient is not None:
        candidates.append((quotient.args[0], graph.call(quotient.args[1], "relax.sqrt")))
    for x, root in candidates:
        for mean, epsilon in graph.either(root.args[0], "relax.add") if root is not None else []:
            value = scalar(epsilon)
            if value is not None and _is_mean_of_squares(graph, mean, x):
                return x, value
    return None


def _is_mean_of_squares(graph: Graph, expression: Any, x: Any) -> bool:
    mean = graph.call(expression, "relax.mean")
    if mean is None or not mean.attrs.keepdims:
        return False
    if [int(axis) % len(shape(x)) for axis in mean.attrs.axis or []] != [len(shape(x)) - 1]:
        return False
    power, product = graph.call(mean.args[0], "relax.power"), graph.call(mean.args[0], "relax.multiply")
    if power is not None:
        return bool(graph.origin(power.args[0]) == graph.origin(x) and scalar(power.args[1]) == 2.0)
    return product is not None and all(graph.origin(side) == graph.origin(x) for side in product.args)
