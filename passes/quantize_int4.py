"""quantize-int4: linear weights become int4 with scales for groups of columns."""

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
from vamc_py.weights.plan import QuantizeGroups


@dataclass(frozen=True)
class QuantizeInt4(Pass):
    """Four bits for the weights of the decoder's linear layers, with a scale for each row and ``group`` columns.

    Rounded to nearest; the last group of a row may be shorter. Without ``zeros`` the weight of a group's largest
    magnitude becomes -8, with them the grid reaches from its least to its largest weight. Scales take 16 bits.
    ``rules``, ``PATTERN=TYPE`` each, pick weights by their names in the checkpoint: of a weight's first rule that fits,
    the type has to be w4a16; without rules all are taken. The output projection, the embedding and weights that another
    operator reads as well keep their type.
    """

    group: int = 128
    zeros: bool = False
    rules: tuple[str, ...] = ()

    name: ClassVar[str] = "quantize-int4"
    stage: ClassVar[Stage] = "rewrite"
    tolerance: ClassVar[float] = 0.3  # a group's values are off by up to a sixteenth of the largest
    requires: ClassVar[tuple[str, ...]] = ("raise-linear",)  # without it there is nothing to quantize
    after: ClassVar[tuple[str, ...]] = ("merge-linear", "keep-quantized")  # both take float32 weights
    example: ClassVar[str] = """
@I.ir_module
class Module:
    @R.function
    def main(
        x: R.Tensor(("n", 256), "float32"),
        up_proj: R.Tensor((512, 256), "float32"),
        lm_head: R.Tensor((999, 512), "float32"),
    ):
        R.func_attr({"vamc.inputs": 1})
        with R.dataflow():
            up = R.vamc.linear(x, up_proj, bias=False, residual=False)
            logits = R.vamc.linear(up, lm_head, bias=False, residual=False)
            R.output(logits)
        return logits
"""

    def __post_init__(self) -> None:
        if self.group < 16 or self.group % 16:
            raise ValueError(f"group is a multiple of 16 columns, not {self.group}")

    def apply(self, program: Program, context: Context) -> Program:
        graph = Graph(program.function)
        weights = layout(program.function)[2]
        chosen = matrices(graph, weights) - outer_matrices(graph)
        form = WeightFormat("int4", self.group, self.zeros, "float16")
        return with_formats(
            program,
            {
                weight: self._quantized(program, weight, form)
                for weight in weights
                if weight in chosen and str(weight.ty.dtype) == "float32" and self._takes(program, weight)
            },
        )

    def _takes(self, program: Program, weight: Any) -> bool:
        return not self.rules or rule_of(self.rules, program.plan[weight.name].sources) == "w4a16"

    def _quantized(self, program: Program, weight: Any, form: WeightFormat) -> Quantized:
        recipe = program.plan[weight.name]
        parts = ("values", "scale", *(["zero"] if form.zeros else []))
        steps = (QuantizeGroups(part, form.values, form.group, form.zeros, form.scale) for part in parts)
        return Quantized(form, *(recipe.then(step) for step in steps))
