"""quantize-int8: linear weights become int8 with a scale per output row."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from tvm import relax

from vamc_py.dialect import LinearCall, embedding
from vamc_py.pipeline.base import Context, Pass, Stage
from vamc_py.pipeline.graph import Graph
from vamc_py.pipeline.matching import shape
from vamc_py.pipeline.matrices import matrices
from vamc_py.pipeline.program import Program, layout
from vamc_py.weights.plan import QuantizeRows


@dataclass(frozen=True)
class QuantizeInt8(Pass):
    """Per output row, symmetric, round to nearest: scale = max|w| / 127, on every linear layer of the decoder.

    ``lm_head`` takes the output projection and the embedding too (one table when they are tied). The activations stay
    float in the graph (w8a16) until quantize-activations. Weights that another operator reads as well keep their type.
    """

    lm_head: bool = True

    name: ClassVar[str] = "quantize-int8"
    stage: ClassVar[Stage] = "rewrite"
    tolerance: ClassVar[float] = 0.05
    requires: ClassVar[tuple[str, ...]] = ("raise-linear",)  # without it there is nothing to quantize
    after: ClassVar[tuple[str, ...]] = ("merge-linear",)  # which merges float32 weights only
    example: ClassVar[str] = """
@I.ir_module
class Module:
    @R.function
    def main(
        tokens: R.Tensor(("n",), "int32"),
        embed: R.Tensor((9, 8), "float32"),
        weight: R.Tensor((8, 8), "float32"),
    ):
        R.func_attr({"vamc.inputs": 1})
        with R.dataflow():
            x = R.vamc.embedding(tokens, embed)
            hidden = R.vamc.linear(x, weight, bias=False, residual=False)
            logits = R.vamc.linear(hidden, embed, bias=False, residual=False)
            R.output(logits)
        return logits
"""

    def apply(self, program: Program, context: Context) -> Program:
        graph = Graph(program.function)
        inputs, caches, weights = layout(program.function)
        chosen = self._chosen(graph, weights)
        values = {w: relax.Var(w.name, relax.TensorType(shape(w), "int8")) for w in chosen}
        scales = {w: relax.Var(f"{w.name}.scale", relax.TensorType(shape(w)[:1], "float32")) for w in chosen}
        for var, call in graph.calls("relax.vamc.linear"):
            weight = call.args[1]
            if weight in chosen:
                quantized = replace(LinearCall.of(call), weight=values[weight], scale=scales[weight])
                graph.replace(var, quantized.make())
        for var, call in graph.calls("relax.vamc.embedding"):
            if call.args[1] in chosen:
                graph.replace(var, embedding(call.args[0], values[call.args[1]], scales[call.args[1]]))
        recipes = {}
        parameters: list[Any] = []
        for weight in weights:
            recipe = program.plan[weight.name]
            if weight not in chosen:
                parameters.append(weight)
                recipes[weight.name] = recipe
                continue
            parameters += [values[weight], scales[weight]]
            recipes[weight.name] = recipe.then(QuantizeRows("values"))
            recipes[scales[weight].name] = recipe.then(QuantizeRows("scale"))
        function = graph.rebuild(parameters=[*inputs, *caches, *parameters])
        return program.with_function(function, plan=type(program.plan)(recipes))

    def _chosen(self, graph: Graph, weights: list[Any]) -> set[Any]:
        chosen = {weight for weight in matrices(graph, weights) if str(weight.ty.dtype) != "int8"}
        if self.lm_head:
            return chosen
        head = graph.call(graph.outputs()[0], "relax.vamc.linear")
        outer = {call.args[1] for _, call in graph.calls("relax.vamc.embedding")}
        return chosen - outer - ({head.args[1]} if head is not None else set())
