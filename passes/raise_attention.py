"""raise-attention: eager grouped-query attention becomes R.vamc.attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from tvm import relax

from vamc_py.dialect import attention
from vamc_py.pipeline.base import Context, Pass, Stage
from vamc_py.pipeline.graph import Graph
from vamc_py.pipeline.matching import same_shape, scalar, shape, static
from vamc_py.pipeline.program import Program

_HEADS_BEHIND_TOKENS = [0, 2, 1, 3]


@dataclass(frozen=True)
class RaiseAttention(Pass):
    """``softmax(q @ k.T * scale + mask) @ v`` with repeated key and value heads becomes ``R.vamc.attention``.

    The scale may be a factor or a divisor; the mask stays an argument: what it means is for the KV-cache layout pass.
    """

    name: ClassVar[str] = "raise-attention"
    stage: ClassVar[Stage] = "raise"
    after: ClassVar[tuple[str, ...]] = ("simplify",)
    example: ClassVar[str] = """
@I.ir_module
class Module:
    @R.function
    def main(
        q: R.Tensor((1, 2, "n", 8), "float32"),
        k: R.Tensor((1, 2, "t", 8), "float32"),
        v: R.Tensor((1, 2, "t", 8), "float32"),
        mask: R.Tensor((1, 1, "n", "t"), "float32"),
    ):
        R.func_attr({"vamc.inputs": 4})
        with R.dataflow():
            scores = R.matmul(q, R.permute_dims(k, axes=[0, 1, 3, 2]))
            masked = R.add(R.divide(scores, R.const(4.0, "float32")), mask)
            out = R.matmul(R.nn.softmax(masked, axis=-1), v)
            R.output(out)
        return out
"""

    def apply(self, program: Program, context: Context) -> Program:
        graph = Graph(program.function)
        for var, call in graph.calls("relax.matmul"):
            found = _attention(graph, call)
            if found is not None:
                q, k, v, mask, scale = found
                q, k, v = (graph.bind(relax.op.permute_dims(x, _HEADS_BEHIND_TOKENS)) for x in (q, k, v))
                attended = graph.bind(attention(q, k, v, mask, scale=scale), "attention")
                graph.replace(var, relax.op.permute_dims(attended, _HEADS_BEHIND_TOKENS))
        return program.with_function(graph.rebuild())


def _attention(graph: Graph, product: Any) -> tuple[Any, Any, Any, Any, float] | None:
    """(q, k, v, mask, scale) of ``softmax(…) @ v``; q [1, H, n, d], k and v [1, KV, t, d]."""
    softmax = graph.call(product.args[0], "relax.nn.softmax")
    if softmax is None or int(softmax.attrs.axis) not in (-1, 3):
        return None
    for scaled, mask in graph.either(softmax.args[0], "relax.add"):
        found = _scaled_scores(graph, scaled)
        if found is None:
            continue
        q, repeated_keys, scale = found
        heads = shape(q)[1]
        k, v = _unrepeated(graph, repeated_keys), _unrepeated(graph, product.args[1])
        if same_shape(shape(k), shape(v)) and static(heads) is not None:
            return q, k, v, mask, scale
    return None


def _scaled_scores(graph: Graph, expression: Any) -> tuple[Any, Any, float] | None:
    """(q, k, scale) of ``(q @ k.T) * scale`` or ``/ divisor``."""
    candidates = [(scores, scalar(factor)) for scores, factor in graph.either(expression, "relax.multiply")]
    quotient = graph.call(expression, "relax.divide")
    if quotient is not None:
        divisor = scalar(quotient.args[1])
        candidates.append((quotient.args[0], 1 / divisor if divisor else None))
    for scores, scale in candidates:
        product = graph.call(scores, "relax.matmul")
        keys = graph.call(product.args[1], "relax.permute_dims") if product is not None else None
        if product is None or keys is None or scale is None or len(shape(product.args[0])) != 4:
            continue
        axes = [int(axis) for axis in keys.attrs.axes] if keys.attrs.axes is not None else []
        if axes == [0, 1, 3, 2]:
            return product.args[0], keys.args[0], scale
    return None


def _unrepeated(graph: Graph, expression: Any) -> Any:
    """[1, KV, t, d] behind ``reshape(broadcast_to(expand_dims(x, 2)))``, or the expression itself."""
    reshape = graph.call(expression, "relax.reshape")
    broadcast = graph.call(reshape.args[0], "relax.broadcast_to") if reshape is not None else None
    expanded = graph.call(broadcast.args[0], "relax.expand_dims") if broadcast is not None else None
    if broadcast is None or expanded is None or [int(axis) for axis in expanded.attrs.axis] != [2]:
        return expression
    x, repeated = expanded.args[0], shape(broadcast)
    only_heads = same_shape([*repeated[:2], *repeated[3:]], shape(x)) and same_shape(
        shape(expression)[2:], shape(x)[2:]
    )
    return x if only_heads else expression
