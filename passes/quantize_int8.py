"""quantize-int8: linear weights become int8 with a scale per output row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from vamc_py.config.patterns import rule_of
from vamc_py.pipeline.base import Context, Pass, Stage
from vamc_py.pipeline.graph import Graph
from vamc_py.pipeline.matrices import matrices, outer_matrices
from vamc_py.pipeline.program import Program, layout
from vamc_py.pipeline.weight_formats import Quantized, with_formats
from vamc_py.weights.formats import WeightFormat
from vamc_py.weights.plan import QuantizeRows, Recipe

FLOATS = ("fp16",)
"""Types of rules that leave a weight its floating-point numbers."""


@dataclass(frozen=True)
class QuantizeInt8(Pass):
    """Per output row, symmetric, round to nearest: scale = max|w| / 127, on every linear layer of the decoder.

    ``lm_head`` takes the output projection and the embedding too (one table when they are tied). The activations stay
    float in the graph (w8a16) until quantize-activations. Weights that another operator reads as well keep their type,
    and so do those whose first fitting rule among ``rules``, ``PATTERN=TYPE`` each, has the type fp16.
    """

    lm_head: bool = True
    rules: tuple[str, ...] = ()

    name: ClassVar[str] = "quantize-int8"
    stage: ClassVar[Stage] = "rewrite"
    tolerance: ClassVar[float] = 0.05
    requires: ClassVar[tuple[str, ...]] = ("raise-linear",)  # without it there is nothing to quantize
    after: ClassVar[tuple[str, ...]] = ("merge-linear", "keep-quantized", "quantize-int4")  # take float32 weights
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
        weights = layout(program.function)[2]
        chosen = matrices(graph, weights) - (set() if self.lm_head else outer_matrices(graph))
        return with_formats(
            program,
            {
                weight: _quantized(program.plan[weight.name])
                for weight in weights
                if weight in chosen and str(weight.ty.dtype) == "float32" and self._takes(program, weight)
            },
        )

    def _takes(self, program: Program, weight: Any) -> bool:
        return rule_of(self.rules, program.plan[weight.name].sources) not in FLOATS


def _quantized(recipe: Recipe) -> Quantized:
    return Quantized(WeightFormat("int8"), recipe.then(QuantizeRows("values")), recipe.then(QuantizeRows("scale")))
