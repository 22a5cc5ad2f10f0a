"""fuse-attention: the split, head norms and rotation of a merged projection go into the attention."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from tvm import relax

from vamc_py.dialect import qkv_attention
from vamc_py.pipeline.base import Context, Pass, Stage
from vamc_py.pipeline.graph import Graph
from vamc_py.pipeline.matching import shape
from vamc_py.pipeline.program import Program
from vamc_py.pipeline.split import split_of


@dataclass(frozen=True)
class FuseAttention(Pass):
    """``cached_attention(rotary([norm](q)), rotary([norm](k)), v)`` of one merged projection becomes
    ``R.vamc.qkv_attention``: q is rotated and k written rotated into the cache in one go.

    q and k must both have a head norm with the same epsilon, or both none, and be turned by the same angles.
    """

    name: ClassVar[str] = "fuse-attention"
    stage: ClassVar[Stage] = "rewrite"
    after: ClassVar[tuple[str, ...]] = ("flatten-batch", "merge-linear", "raise-rotary")
    example: ClassVar[str] = """
@I.ir_module
class Module:
    @R.function
    def main(
        qkv: R.Tensor(("n", 32), "float32"),
        cos: R.Tensor(("n", 8), "float32"),
        sin: R.Tensor(("n", 8), "float32"),
        positions: R.Tensor(("n",), "int32"),
        slots: R.Tensor(("n",), "int32"),
        pages: R.Tensor(("s", "p"), "int32"),
        k_cache: R.Tensor(("num_pages", 1, "blocks", 8, 16), "float32"),
        v_cache: R.Tensor(("num_pages", 1, "blocks", 16, 8), "float32"),
    ):
        R.func_attr({"vamc.inputs": 6, "vamc.caches": 2})
        n = T.int64()
        with R.dataflow():
            parts = R.split(qkv, [16, 24], axis=1)
            q = R.vamc.rotary(R.reshape(parts[0], R.shape([n, 2, 8])), cos, sin)
            k = R.vamc.rotary(R.reshape(parts[1], R.shape([n, 1, 8])), cos, sin)
            v = R.reshape(parts[2], R.shape([n, 1, 8]))
            out = R.vamc.cached_attention(q, k, v, positions, slots, pages, k_cache, v_cache, scale=0.5)
            R.output(out)
        return out
"""

    def apply(self, program: Program, context: Context) -> Program:
        graph = Graph(program.function)
        missed = 0
        for var, call in graph.calls("relax.vamc.cached_attention"):
            new = _fused(graph, call)
            if new is None:
                missed += 1
            else:
                graph.replace(var, relax.op.reshape(graph.bind(new, "attended"), shape(var)))
        program = program.with_function(graph.rebuild())
        if missed:
            program = program.note(f"fuse-attention did not fire on {missed} attentions: they run as separate kernels")
        return program


def _fused(graph: Graph, call: Any) -> Any | None:
    q, k, v, *rest = call.args
    turned = _calls(graph, (q, k), "relax.vamc.rotary")
    if len(turned) != 2 or any(
        graph.origin(a) != graph.origin(b) for a, b in zip(*(t.args[1:] for t in turned), strict=True)
    ):
        return None
    norms = _calls(graph, [t.args[0] for t in turned], "relax.vamc.rms_norm")
    epsilons = {norm.attrs["epsilon"] for norm in norms}
    if len(norms) == 1 or len(epsilons) > 1:
        return None
    heads = [call.args[0] for call in norms or turned]
    reshapes = _calls(graph, (*heads, v), "relax.reshape")
    merged = split_of(graph, [r.args[0] for r in reshapes]) if len(reshapes) == 3 else None
    if merged is None or len(shape(merged)) != 2:
        return None
    return qkv_attention(
        merged,
        *(norm.args[1] for norm in norms),
        *turned[0].args[1:],
        *rest,
        heads=int(shape(q)[1]),
        kv_heads=int(shape(k)[1]),
        head_dim=int(shape(q)[2]),
        scale=call.attrs["scale"],
        epsilon=epsilons.pop() if epsilons else 0.0,
        products=call.attrs["products"],
    )


def _calls(graph: Graph, expressions: Iterable[Any], operator: str) -> list[Any]:
    """The calls of the operator among what defines the expressions, in order."""
    return [call for call in (graph.call(x, operator) for x in expressions) if call is not None]
