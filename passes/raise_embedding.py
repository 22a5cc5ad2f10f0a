"""raise-embedding: a gather from a weight or a constant table becomes R.vamc.embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from vamc_py.dialect import embedding
from vamc_py.pipeline.base import Context, Pass, Stage
from vamc_py.pipeline.graph import Graph
from vamc_py.pipeline.matching import constant, shape, static
from vamc_py.pipeline.program import Program, layout


@dataclass(frozen=True)
class RaiseEmbedding(Pass):
    """``take(table, ids, axis=0)`` becomes ``R.vamc.embedding``.

    The table is a weight, or a constant such as the cosines that older model code keeps; a slice that only shortens it
    to the sequence is passed by.
    """

    name: ClassVar[str] = "raise-embedding"
    stage: ClassVar[Stage] = "raise"
    example: ClassVar[str] = """
@I.ir_module
class Module:
    @R.function
    def main(ids: R.Tensor((1, "n"), "int64"), table: R.Tensor((9, 8), "float32")):
        R.func_attr({"vamc.inputs": 1})
        with R.dataflow():
            out = R.take(table, ids, axis=0)
            R.output(out)
        return out
"""

    def apply(self, program: Program, context: Context) -> Program:
        graph = Graph(program.function)
        weights = set(layout(program.function)[2])
        for var, call in graph.calls("relax.take"):
            ids = call.args[1]
            if call.attrs.axis is None or int(call.attrs.axis) != 0 or not str(ids.ty.dtype).startswith("int"):
                continue
            table = _unsliced(graph, call.args[0])
            if len(shape(table)) == 2 and (table in weights or constant(table) is not None):
                graph.replace(var, embedding(ids, table))
        return program.with_function(graph.rebuild())


def _unsliced(graph: Graph, table: Any) -> Any:
    """The whole table behind ``table[:length]``: an id below the length selects the same row of both."""
    call = graph.call(table, "relax.strided_slice")
    if call is None or len(call.args[1]) != 1 or static(call.args[1][0]) != 0 or static(call.args[2][0]) != 0:
        return table
    if len(call.args) > 4 and static(call.args[4][0]) != 1:
        return table
    return call.args[0]
