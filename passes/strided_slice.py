"""strided-slice: only the last token goes through the final norm and lm_head."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from tvm import relax

from vamc_py.dialect import LinearCall, rms_norm
from vamc_py.pipeline.base import Context, Pass, Stage
from vamc_py.pipeline.graph import Graph
from vamc_py.pipeline.matching import reaches_end, same_dimension, shape, static
from vamc_py.pipeline.program import Program


@dataclass(frozen=True)
class StridedSlice(Pass):
    """Inserts ``hidden[:, -1:, :]`` before the final norm, as the patched models do with ``insert_slice``.

    A slice that the trace has already behind the norm moves before it. The KV-cache layout pass turns the slice into
    "the rows that are wanted".
    """

    name: ClassVar[str] = "strided-slice"
    stage: ClassVar[Stage] = "rewrite"
    after: ClassVar[tuple[str, ...]] = ("raise-linear", "raise-rms-norm")
    example: ClassVar[str] = """
@I.ir_module
class Module:
    @R.function
    def main(
        x: R.Tensor((1, "n", 8), "float32"),
        norm: R.Tensor((8,), "float32"),
        head: R.Tensor((9, 8), "float32"),
    ):
        R.func_attr({"vamc.inputs": 1})
        with R.dataflow():
            normed = R.vamc.rms_norm(x, norm, epsilon=1e-6)
            logits = R.vamc.linear(normed, head, bias=False, residual=False)
            R.output(logits)
        return logits
"""

    def apply(self, program: Program, context: Context) -> Program:
        graph = Graph(program.function)
        logits = graph.outputs()[0]
        head = graph.call(logits, "relax.vamc.linear")
        if head is None:
            return program.note("strided-slice did not fire: the logits do not come from a linear layer")
        hidden = head.args[0]
        sliced = last_token(graph, hidden)
        norm = graph.call(hidden if sliced is None else sliced, "relax.vamc.rms_norm")
        before_norm = None if norm is None else last_token(graph, norm.args[0])
        if before_norm is not None or (norm is None and sliced is not None):
            return program  # the slice is where it belongs
        if norm is None:
            new = graph.bind(_slice_last(hidden), "last_token")
        else:
            slice_ = graph.bind(_slice_last(norm.args[0]), "last_token")
            new = graph.bind(rms_norm(slice_, norm.args[1], epsilon=norm.attrs["epsilon"]), "last_norm")
        graph.replace(graph.origin(logits), replace(LinearCall.of(head), x=new).make())
        return program.with_function(graph.rebuild())


def last_token(graph: Graph, expression: Any) -> Any | None:
    """x of ``x[:, -1:, :]``, x [1, n, H]; None when the expression is no such slice."""
    call = graph.call(expression, "relax.strided_slice")
    if call is None or len(shape(call)) != 3 or [static(axis) for axis in call.args[1]] != [1]:
        return None
    # The result's shape does not tell: a traced slice of a symbolic length has min and max in it instead of 1.
    x, _, (begin,), (end,), *strides = call.args
    n = shape(x)[1]
    from_last = static(begin) == -1 or same_dimension(begin, n - 1)
    one_by_one = all(static(stride) == 1 for (stride,) in strides)
    return x if from_last and reaches_end(end, n) and one_by_one else None


def _slice_last(x: Any) -> Any:
    n = shape(x)[1]
    # Without assume_inbound the length of a symbolic slice is a nest of min and max instead of 1.
    return relax.op.strided_slice(x, axes=[1], begin=[n - 1], end=[n], assume_inbound=True)
