"""fuse-prologue: the norm or SwiGLU before a linear layer becomes how that layer reads its input."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from vamc_py.dialect import LinearCall
from vamc_py.pipeline.base import Context, Pass, Stage
from vamc_py.pipeline.graph import Graph
from vamc_py.pipeline.matching import shape
from vamc_py.pipeline.program import Program


@dataclass(frozen=True)
class FusePrologue(Pass):
    """``linear(rms_norm(x, norm), w)`` becomes ``linear(x, w, norm, prologue="rms_norm")``, and
    ``linear(swiglu(x), w)`` with a merged x becomes ``linear(x, w, prologue="swiglu")``, where nothing else
    reads the norm or the SwiGLU.

    One launch instead of two, and what is in between never goes through memory.
    """

    name: ClassVar[str] = "fuse-prologue"
    stage: ClassVar[Stage] = "rewrite"
    after: ClassVar[tuple[str, ...]] = ("flatten-batch", "merge-linear", "fuse-swiglu")
    example: ClassVar[str] = """
@I.ir_module
class Module:
    @R.function
    def main(
        x: R.Tensor(("n", 8), "float32"),
        norm: R.Tensor((8,), "float32"),
        gate_up: R.Tensor((32, 8), "float32"),
        down: R.Tensor((8, 16), "float32"),
    ):
        R.func_attr({"vamc.inputs": 1})
        with R.dataflow():
            merged = R.vamc.linear(R.vamc.rms_norm(x, norm, epsilon=1e-6), gate_up, bias=False, residual=False)
            out = R.vamc.linear(R.vamc.swiglu(merged), down, bias=False, residual=False)
            R.output(out)
        return out
"""

    def apply(self, program: Program, context: Context) -> Program:
        graph = Graph(program.function)
        for var, call in graph.calls("relax.vamc.linear"):
            fused = _fused(graph, var, LinearCall.of(call))
            if fused is not None:
                graph.replace(var, fused.make())
        return program.with_function(graph.rebuild())


def _fused(graph: Graph, var: Any, layer: LinearCall) -> LinearCall | None:
    """The layer ``var`` with what is before it as its prologue."""
    if layer.prologue != "none" or graph.only_user(graph.origin(layer.x)) != var:
        return None
    norm = graph.call(layer.x, "relax.vamc.rms_norm")
    if norm is not None and len(shape(norm.args[1])) == 1:
        x, weight = norm.args
        return replace(layer, x=x, norm=weight, prologue="rms_norm", epsilon=float(norm.attrs["epsilon"]))
    gated = graph.call(layer.x, "relax.vamc.swiglu")
    if gated is not None and len(gated.args) == 1:
        return replace(layer, x=gated.args[0], prologue="swiglu")
    return None
