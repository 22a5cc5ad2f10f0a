"""fuse-swiglu: SwiGLU reads the merged gate and up projection without a split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vamc_py.dialect import swiglu
from vamc_py.pipeline.base import Context, Pass, Stage
from vamc_py.pipeline.graph import Graph
from vamc_py.pipeline.program import Program
from vamc_py.pipeline.split import split_of


@dataclass(frozen=True)
class FuseSwiglu(Pass):
    """``swiglu(parts[0], parts[1])`` of ``split(x, 2)`` becomes ``swiglu(x)``."""

    name: ClassVar[str] = "fuse-swiglu"
    stage: ClassVar[Stage] = "rewrite"
    after: ClassVar[tuple[str, ...]] = ("merge-linear", "raise-swiglu")
    example: ClassVar[str] = """
@I.ir_module
class Module:
    @R.function
    def main(gate_up: R.Tensor(("n", 8), "float32")):
        R.func_attr({"vamc.inputs": 1})
        with R.dataflow():
            parts = R.split(gate_up, 2, axis=1)
            out = R.vamc.swiglu(parts[0], parts[1])
            R.output(out)
        return out
"""

    def apply(self, program: Program, context: Context) -> Program:
        graph = Graph(program.function)
        for var, call in graph.calls("relax.vamc.swiglu"):
            merged = split_of(graph, call.args) if len(call.args) == 2 else None
            if merged is not None:
                graph.replace(var, swiglu(merged))
        return program.with_function(graph.rebuild())
