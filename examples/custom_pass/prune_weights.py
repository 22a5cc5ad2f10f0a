"""prune-weights: the smallest weights of each row become zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from vamc_py.pipeline.base import Context, Pass, Stage
from vamc_py.pipeline.graph import Graph
from vamc_py.pipeline.matrices import matrices
from vamc_py.pipeline.program import Program, layout

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class ZeroSmallest:
    """Sets a share of each row to zero: its smallest absolute values."""

    share: float
    rows_multiple: int = 1  # rows that must stay together: each is changed by itself

    def apply(self, block: Array) -> Array:
        """f32 [rows, K] -> f32 [rows, K]."""
        count = int(self.share * block.shape[1])
        smallest = np.argpartition(np.abs(block), count, axis=1)[:, :count]
        pruned = block.copy()
        np.put_along_axis(pruned, smallest, np.float32(0), axis=1)
        return pruned


@dataclass(frozen=True)
class PruneWeights(Pass):
    """A share of each row of the linear layers' weights becomes zero: those of the smallest magnitude."""

    share: float = 0.1

    name: ClassVar[str] = "prune-weights"
    stage: ClassVar[Stage] = "rewrite"
    requires: ClassVar[tuple[str, ...]] = ("raise-linear",)
    after: ClassVar[tuple[str, ...]] = ("merge-linear",)  # merges only weights that are all made alike
    tolerance: ClassVar[float] = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise ValueError(f"share is {self.share}; it must be from 0 to below 1")

    def apply(self, program: Program, context: Context) -> Program:
        graph = Graph(program.function)
        tables = {call.args[1] for _, call in graph.calls("relax.vamc.embedding")}
        chosen = matrices(graph, layout(program.function)[2]) - tables
        names = [weight.name for weight in chosen if str(weight.ty.dtype) == "float32"]
        if not names:
            return program.note("prune-weights did not fire: no linear layer has float32 weights at this place")
        step = ZeroSmallest(self.share)
        plan = program.plan.with_recipes({name: program.plan[name].then(step) for name in names})
        return program.with_function(program.function, plan=plan)
