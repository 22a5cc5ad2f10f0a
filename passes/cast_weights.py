"""cast-weights: linear weights and the embedding are kept in 16 bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from tvm import relax

from vamc_py.pipeline.base import Context, Pass, Stage
from vamc_py.pipeline.graph import Graph
from vamc_py.pipeline.matching import shape
from vamc_py.pipeline.matrices import matrices
from vamc_py.pipeline.program import Program, layout
from vamc_py.weights.plan import Cast, Recipe


@dataclass(frozen=True)
class CastWeights(Pass):
    """Weights of linear layers and embeddings that are still float32 take the type ``dtype``; sums stay in float32.

    Norms and biases stay float32: they are small, and their precision is cheap. So do weights that another operator
    reads as well.
    """

    dtype: Literal["float16", "bfloat16"] = "float16"

    name: ClassVar[str] = "cast-weights"
    stage: ClassVar[Stage] = "rewrite"
    tolerance: ClassVar[float] = 0.01  # bfloat16 has 8 bits
    requires: ClassVar[tuple[str, ...]] = ("raise-linear",)  # without it there is nothing to cast
    after: ClassVar[tuple[str, ...]] = ("merge-linear", "quantize-int8")  # both take float32 weights
    example: ClassVar[str] = """
@I.ir_module
class Module:
    @R.function
    def main(
        tokens: R.Tensor(("n",), "int32"),
        table: R.Tensor((9, 8), "float32"),
        norm: R.Tensor((8,), "float32"),
    ):
        R.func_attr({"vamc.inputs": 1})
        with R.dataflow():
            x = R.vamc.rms_norm(R.vamc.embedding(tokens, table), norm, epsilon=1e-6)
            logits = R.vamc.linear(x, table, bias=False, residual=False)
            R.output(logits)
        return logits
"""

    def apply(self, program: Program, context: Context) -> Program:
        graph = Graph(program.function)
        inputs, caches, weights = layout(program.function)
        chosen = {weight for weight in matrices(graph, weights) if str(weight.ty.dtype) == "float32"}
        new: dict[Any, Any] = {w: relax.Var(w.name, relax.TensorType(shape(w), self.dtype)) for w in chosen}
        parameters = [new.get(w, w) for w in weights]
        recipes = {w.name: _cast(program.plan[w.name], self.dtype) for w in chosen}
        function = graph.rebuild(parameters=[*inputs, *caches, *parameters], substitute=new)
        return program.with_function(function, plan=program.plan.with_recipes(recipes))


def _cast(recipe: Recipe, dtype: str) -> Recipe:
    # The checkpoint's own type is cast once: a detour over float32 would round the same, but cost a copy.
    steps = recipe.steps[:-1] if recipe.steps[-1:] == (Cast("float32"),) else recipe.steps
    return Recipe(recipe.sources, (*steps, Cast(dtype)))
