"""simplify: what changes nothing goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from tvm import relax

from vamc_py.pipeline.base import Context, Pass, Stage
from vamc_py.pipeline.graph import Graph, operator_name
from vamc_py.pipeline.matching import reaches_end, same_shape, scalar, shape, static
from vamc_py.pipeline.program import Program


@dataclass(frozen=True)
class Simplify(Pass):
    """Removes operators that change nothing: casts to the same type, reshapes and broadcasts to the same shape, slices
    that take everything, products with one, pairs of transposes that cancel, reshapes of reshapes."""

    name: ClassVar[str] = "simplify"
    stage: ClassVar[Stage] = "raise"
    anywhere: ClassVar[bool] = True
    example: ClassVar[str] = """
@I.ir_module
class Module:
    @R.function
    def main(x: R.Tensor((1, "n", 8), "float32")):
        R.func_attr({"vamc.inputs": 1})
        n = T.int64()
        with R.dataflow():
            heads = R.reshape(x, R.shape([1, n, 2, 4]))
            again = R.reshape(heads, R.shape([1, n, 8]))
            same = R.multiply(R.astype(again, "float32"), R.const(1.0, "float32"))
            out = R.nn.silu(same)
            R.output(out)
        return out
"""

    def apply(self, program: Program, context: Context) -> Program:
        graph = Graph(program.function)
        for var in list(graph.values):
            value = graph.values[var]
            rule = _RULES.get(operator_name(value))
            simpler = rule(graph, value) if rule else None
            if simpler is not None:
                graph.replace(var, simpler)
        return program.with_function(graph.rebuild())


def _cast(_graph: Graph, call: Any) -> Any | None:
    return call.args[0] if str(call.args[0].ty.dtype) == str(call.ty.dtype) else None


def _same_shape(_graph: Graph, call: Any) -> Any | None:
    return call.args[0] if same_shape(shape(call.args[0]), shape(call)) else None


def _reshape(graph: Graph, call: Any) -> Any | None:
    if same_shape(shape(call.args[0]), shape(call)):
        return call.args[0]
    inner = graph.call(call.args[0], "relax.reshape")
    if inner is None:
        return None
    if same_shape(shape(inner.args[0]), shape(call)):
        return inner.args[0]
    return relax.op.reshape(inner.args[0], shape(call))


def _permute(graph: Graph, call: Any) -> Any | None:
    inner = graph.call(call.args[0], "relax.permute_dims")
    if inner is None or call.attrs.axes is None or inner.attrs.axes is None:
        return None
    axes = [int(inner.attrs.axes[int(axis)]) for axis in call.attrs.axes]
    return inner.args[0] if axes == sorted(axes) else relax.op.permute_dims(inner.args[0], axes)


def _slice(_graph: Graph, call: Any) -> Any | None:
    x, axes, begin, end, *strides = call.args
    if any(static(stride) != 1 for group in strides for stride in group):
        return None
    whole = all(
        static(first) == 0 and reaches_end(last, shape(x)[int(axis)])
        for axis, first, last in zip(axes, begin, end, strict=True)
    )
    return x if whole else None


def _multiply(_graph: Graph, call: Any) -> Any | None:
    for x, factor in ((call.args[0], call.args[1]), (call.args[1], call.args[0])):
        if scalar(factor) == 1.0 and same_shape(shape(x), shape(call)):
            return x
    return None


_RULES = {
    "relax.astype": _cast,
    "relax.reshape": _reshape,
    "relax.broadcast_to": _same_shape,
    "relax.permute_dims": _permute,
    "relax.strided_slice": _slice,
    "relax.multiply": _multiply,
}
