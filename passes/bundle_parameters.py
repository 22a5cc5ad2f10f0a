"""bundle-parameters: caches and weights become one tuple each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tvm import relax

from vamc_py.pipeline.base import Context, Pass, Stage
from vamc_py.pipeline.graph import Graph
from vamc_py.pipeline.program import Program, layout


@dataclass(frozen=True)
class BundleParameters(Pass):
    """``step(inputs…, caches: tuple, params: tuple)``: the runtime builds both tuples once, and passes references."""

    name: ClassVar[str] = "bundle-parameters"
    stage: ClassVar[Stage] = "lower"
    requires: ClassVar[tuple[str, ...]] = ("flatten-batch", "lower-reference")  # the runtime takes logits [m, vocab]
    example: ClassVar[str] = """
@I.ir_module
class Module:
    @R.function
    def main(
        x: R.Tensor(("n", 8), "float32"),
        k_cache: R.Tensor(("n", 8), "float32"),
        v_cache: R.Tensor(("n", 8), "float32"),
        norm: R.Tensor((8,), "float32"),
        bias: R.Tensor((8,), "float32"),
    ):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 2})
        with R.dataflow():
            keys = R.add(x, k_cache)
            sums = R.add(R.multiply(keys, norm), v_cache)
            out = R.add(sums, bias)
            R.output(out)
        return out
"""

    def apply(self, program: Program, context: Context) -> Program:
        graph = Graph(program.function)
        inputs, caches, weights = layout(program.function)
        bundles = []
        substitute = {}
        for name, members in (("caches", caches), ("params", weights)):
            bundle = relax.Var(name, relax.TupleType([member.ty for member in members]))
            bundles.append(bundle)
            substitute.update({member: relax.TupleGetItem(bundle, i) for i, member in enumerate(members)})
        function = graph.rebuild(parameters=[*inputs, *bundles], substitute=substitute)
        # From here on the plan alone says which member of the tuple is which weight.
        return program.with_function(function, plan=program.plan.only([weight.name for weight in weights]))
