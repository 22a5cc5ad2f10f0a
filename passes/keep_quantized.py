"""keep-quantized: weights that come quantized keep their values and scales."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from vamc_py.errors import CheckpointError
from vamc_py.pipeline.base import Context, Pass, Stage
from vamc_py.pipeline.graph import Graph
from vamc_py.pipeline.matrices import matrices
from vamc_py.pipeline.program import Program, layout
from vamc_py.pipeline.weight_formats import Quantized, with_formats
from vamc_py.weights.formats import SCALE, ZERO, WeightFormat
from vamc_py.weights.plan import Cast, Recipe
from vamc_py.weights.source import VALUES


@dataclass(frozen=True)
class KeepQuantized(Pass):
    """Weights whose numbers come quantized, from the checkpoint or from calibration, stay as they are.

    Until here the plan dequantizes them; now their values, scales and zero points become parameters themselves. A
    weight that is not read as the matrix of linear layers alone would have to be requantized: it is refused.
    """

    name: ClassVar[str] = "keep-quantized"
    stage: ClassVar[Stage] = "rewrite"
    requires: ClassVar[tuple[str, ...]] = ("raise-linear",)
    after: ClassVar[tuple[str, ...]] = ("merge-linear",)  # which lays formats below each other that are alike
    example: ClassVar[str] = """
@I.ir_module
class Module:
    @R.function
    def main(x: R.Tensor(("n", 256), "float32"), up_proj: R.Tensor((512, 256), "float32")):
        R.func_attr({"vamc.inputs": 1})
        with R.dataflow():
            up = R.vamc.linear(x, up_proj, bias=False, residual=False)
            R.output(up)
        return up
"""
    example_formats: ClassVar[Mapping[str, WeightFormat]] = {"up_proj": WeightFormat("int4", 128, scale="float16")}

    def apply(self, program: Program, context: Context) -> Program:
        if not context.formats:
            return program
        graph = Graph(program.function)
        weights = layout(program.function)[2]
        readable = matrices(graph, weights)
        chosen: dict[Any, Quantized] = {}
        for weight in weights:
            recipe = program.plan[weight.name]
            forms = {context.formats.get(source) for source in recipe.sources}
            if forms == {None}:
                continue
            form = forms.pop()
            if forms or form is None or weight not in readable or recipe.steps != (Cast("float32"),):
                names = ", ".join(recipe.sources)
                raise CheckpointError(
                    f"{names}: comes quantized, but the compiler knows no way to keep it so (the parameter "
                    f"{weight.name} is not the matrix of linear layers alone); use the unquantized checkpoint"
                )
            chosen[weight] = _kept(form, recipe.sources)
        return with_formats(program, chosen)


def _kept(form: WeightFormat, sources: tuple[str, ...]) -> Quantized:
    def stored(ending: str) -> Recipe:
        return Recipe(tuple(source + ending for source in sources))

    return Quantized(form, stored(VALUES), stored(SCALE), stored(ZERO) if form.zeros else None)
