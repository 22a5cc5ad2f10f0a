"""fuse-residual: the residual sum becomes the epilogue of the linear layer before it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from vamc_py.dialect import LinearCall
from vamc_py.pipeline.base import Context, Pass, Stage
from vamc_py.pipeline.graph import Graph
from vamc_py.pipeline.matching import same_shape, shape
from vamc_py.pipeline.program import Program


@dataclass(frozen=True)
class FuseResidual(Pass):
    """``add(linear(x, w), r)`` becomes ``linear(x, w, r, residual=True)`` where nothing else reads the product."""

    name: ClassVar[str] = "fuse-residual"
    stage: ClassVar[Stage] = "rewrite"
    after: ClassVar[tuple[str, ...]] = ("merge-linear",)
    example: ClassVar[str] = """
@I.ir_module
class Module:
    @R.function
    def main(x: R.Tensor(("n", 8), "float32"), weight: R.Tensor((8, 8), "float32")):
        R.func_attr({"vamc.inputs": 1})
        with R.dataflow():
            product = R.vamc.linear(x, weight, bias=False, residual=False)
            out = R.add(x, product)
            R.output(out)
        return out
"""

    def apply(self, program: Program, context: Context) -> Program:
        graph = Graph(program.function)
        for var, _ in graph.calls("relax.add"):
            for product, other in graph.either(var, "relax.add"):
                call = graph.call(product, "relax.vamc.linear")
                if call is None or call.attrs["residual"] or graph.only_user(graph.origin(product)) != var:
                    continue
                if same_shape(shape(product), shape(other)):
                    graph.replace(var, replace(LinearCall.of(call), residual=other).make())
                    break
        return program.with_function(graph.rebuild())
