"""clamp-logits: no logit is beyond a limit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from tvm import relax

from vamc_py.pipeline.base import Context, Pass, Stage
from vamc_py.pipeline.graph import Graph
from vamc_py.pipeline.program import Program


@dataclass(frozen=True)
class ClampLogits(Pass):
    """The logits become ``clip(logits, -limit, limit)``, unless the model bounds them so by itself."""

    limit: float = 30.0

    name: ClassVar[str] = "clamp-logits"
    stage: ClassVar[Stage] = "rewrite"
    requires: ClassVar[tuple[str, ...]] = ("kv-cache-layout",)  # only the logits that are wanted are left then
    after: ClassVar[tuple[str, ...]] = ("quantize-int8",)  # finds lm_head by its being the result
    tolerance: ClassVar[float] = 0.1  # it changes results on purpose; a limit that costs more is too low
    example: ClassVar[str] = """
@I.ir_module
class Module:
    @R.function
    def step(hidden: R.Tensor(("m", 8), "float32"), weight: R.Tensor((16, 8), "float32")):
        R.func_attr({"vamc.inputs": 1})
        with R.dataflow():
            logits = R.vamc.linear(hidden, weight, bias=False, residual=False)
            R.output(logits)
        return logits
"""

    def __post_init__(self) -> None:
        if not self.limit > 0:
            raise ValueError(f"limit is {self.limit}; it must be above 0")

    def apply(self, program: Program, context: Context) -> Program:
        graph = Graph(program.function)
        [logits] = graph.outputs()
        if _is_within(graph, logits, self.limit):
            return program.note("clamp-logits did not fire: the model bounds its logits by itself")
        clipped = graph.bind(relax.op.clip(logits, -self.limit, self.limit), "clipped")
        return program.with_function(graph.rebuild(outputs=[clipped]))


def _is_within(graph: Graph, logits: Any, limit: float) -> bool:
    """Whether the logits are a ``clip`` to bounds within the limit."""
    clip = graph.call(logits, "relax.clip")
    if clip is None:
        return False
    low, high = (float(bound.value) for bound in clip.args[1:])
    return -limit <= low and high <= limit
