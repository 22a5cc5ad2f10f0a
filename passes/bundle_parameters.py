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
    requires: ClassVar[tuple[str, ...]] = ("lower-reference",)

    def apply(self, program: Program, context: Context) -> Program:
        graph = Graph(program.function)
        inputs, caches, weights = layout(program.function)
        bundles = []
        substitute = {}
        for name, members in (("caches", caches), ("params", weights)):
            bundle = relax.Var(name, relax.TupleType([member.ty for member in members]))
            bundles.append(bundle)
            substitute.update({member: relax.TupleGetItem(bundle, i) for i, member in enumerate(members)})
        return program.with_function(graph.rebuild(parameters=[*inputs, *bundles], substitute=substitute))
