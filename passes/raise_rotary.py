"""raise-rotary: rotary embedding, its angles and its application, become R.vamc operators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from tvm import relax

from vamc_py.dialect import rotary, rotary_angles
from vamc_py.pipeline.base import Context, Pass, Stage
from vamc_py.pipeline.graph import Graph
from vamc_py.pipeline.matching import constant, ends_with, reaches_end, same_shape, scalar, shape, static
from vamc_py.pipeline.program import Program
from vamc_py.pipeline.split import split_of

_SHAPE_ONLY = ("relax.expand_dims", "relax.reshape", "relax.broadcast_to", "relax.permute_dims", "relax.squeeze")
_HEADS_BEHIND_TOKENS = [0, 2, 1, 3]  # [1, heads, n, d] <-> [1, n, heads, d]


@dataclass(frozen=True)
class RaiseRotary(Pass):
    """``x * cos + concat(-x[d/2:], x[:d/2]) * sin`` becomes ``R.vamc.rotary``; cos and sin of ``positions * inv_freq``
    become one ``R.vamc.rotary_angles``. Cosines from elsewhere (a table, say) are taken as they come."""

    name: ClassVar[str] = "raise-rotary"
    stage: ClassVar[Stage] = "raise"
    example: ClassVar[str] = """
@I.ir_module
class Module:
    @R.function
    def main(
        x: R.Tensor((1, 2, "n", 6), "float32"),
        cos: R.Tensor((1, 1, "n", 6), "float32"),
        sin: R.Tensor((1, 1, "n", 6), "float32"),
    ):
        R.func_attr({"vamc.inputs": 3})
        with R.dataflow():
            halves = R.split(x, 2, axis=-1)
            turned = R.concat((R.negative(halves[1]), halves[0]), axis=-1)
            out = R.add(R.multiply(x, cos), R.multiply(turned, sin))
            R.output(out)
        return out
"""

    def apply(self, program: Program, context: Context) -> Program:
        graph = Graph(program.function)
        _raise_angles(graph)
        for var, call in graph.calls("relax.add"):
            found = _rotation(graph, call.args[0], call.args[1]) or _rotation(graph, call.args[1], call.args[0])
            if found is not None:
                x, cos, sin = found
                tokens_first = graph.bind(relax.op.permute_dims(x, _HEADS_BEHIND_TOKENS), "tokens_first")
                turned = graph.bind(rotary(tokens_first, _row_a_token(graph, cos), _row_a_token(graph, sin)), "rotated")
                graph.replace(var, relax.op.permute_dims(turned, _HEADS_BEHIND_TOKENS))
        return program.with_function(graph.rebuild())


def _rotation(graph: Graph, straight: Any, crossed: Any) -> tuple[Any, Any, Any] | None:
    """(x, cos, sin) of the two summands, x [1, heads, n, d], cos and sin [1, 1, n, d]."""
    for x, cos in graph.either(straight, "relax.multiply"):
        for turned, sin in graph.either(crossed, "relax.multiply"):
            if _is_turned(graph, turned, x) and all(_is_row_a_token(angle, x) for angle in (cos, sin)):
                return x, cos, sin
    return None


def _is_row_a_token(angle: Any, x: Any) -> bool:
    dimensions, full = shape(angle), shape(x)
    if len(full) != 4 or len(dimensions) != 4:
        return False
    return same_shape(dimensions[2:], full[2:]) and static(dimensions[0]) == static(dimensions[1]) == 1


def _is_turned(graph: Graph, expression: Any, x: Any) -> bool:
    """Whether the expression is ``concat(-x[..., d/2:], x[..., :d/2])``."""
    concat = graph.call(expression, "relax.concat")
    if concat is None or not isinstance(concat.args[0], relax.Tuple) or len(concat.args[0].fields) != 2:
        return False
    size = static(shape(x)[-1]) if shape(x) else None
    if size is None or int(concat.attrs.axis) % len(shape(x)) != len(shape(x)) - 1:
        return False
    negative = graph.call(concat.args[0].fields[0], "relax.negative")
    return negative is not None and _are_halves(graph, concat.args[0].fields[1], negative.args[0], x, size)


def _are_halves(graph: Graph, first: Any, second: Any, x: Any, size: int) -> bool:
    """Whether first and second are x's halves along the last axis: two slices, or the parts of a split."""
    if [static(shape(part)[-1]) for part in (first, second)] != [size // 2, size // 2]:
        return False
    whole = split_of(graph, [first, second])
    if whole is not None:
        return bool(graph.origin(whole) == graph.origin(x))
    return _is_slice(graph, first, x, 0, size // 2) and _is_slice(graph, second, x, size // 2, size)


def _is_slice(graph: Graph, expression: Any, x: Any, first: int, last: int) -> bool:
    call = graph.call(expression, "relax.strided_slice")
    if call is None or graph.origin(call.args[0]) != graph.origin(x) or len(call.args[1]) != 1:
        return False
    axis, begin, end, *strides = (group[0] for group in call.args[1:])
    stops = reaches_end(end, last) if last == static(shape(x)[-1]) else static(end) == last
    return (
        static(axis) in (-1, len(shape(x)) - 1)
        and static(begin) == first
        and stops
        and all(static(stride) == 1 for stride in strides)
    )


def _row_a_token(graph: Graph, angle: Any) -> Any:
    """[1, 1, n, d] as [1, n, d], without the reshape where a value of that shape is there already."""
    wanted = [shape(angle)[0], *shape(angle)[2:]]
    source = graph.call(angle, "relax.expand_dims")
    if source is not None and same_shape(shape(source.args[0]), wanted):
        return source.args[0]
    return graph.bind(relax.op.reshape(angle, wanted), "row_a_token")


def _raise_angles(graph: Graph) -> None:
    made: dict[tuple[Any, float], Any] = {}
    for index, name in enumerate(("relax.cos", "relax.sin")):
        for var, call in graph.calls(name):
            found = _positions_and_frequencies(graph, call.args[0])
            if found is None:
                continue
            positions, frequencies = found
            target, scaling = _scaled(graph, var)
            key = (graph.origin(call.args[0]), scaling)
            if key not in made:
                made[key] = graph.bind(
                    rotary_angles(positions, relax.const(frequencies, "float32"), scaling=scaling), "angles"
                )
            graph.replace(target, relax.op.reshape(graph.bind(relax.TupleGetItem(made[key], index)), shape(target)))


def _scaled(graph: Graph, var: Any) -> tuple[Any, float]:
    """The variable that scales cos or sin by a constant (YaRN), and the factor; the variable itself and 1 if none."""
    user = graph.only_user(var)
    for angle, factor in graph.either(user, "relax.multiply") if user is not None else []:
        value = scalar(factor)
        if angle == var and value is not None:
            return user, value
    return var, 1.0


def _positions_and_frequencies(graph: Graph, expression: Any) -> tuple[Any, np.ndarray[Any, Any]] | None:
    """(positions int [1, n], inv_freq f32 [d/2]) of ``concat(p * f, p * f)`` with shape [1, …, n, d]."""
    concat = graph.call(expression, "relax.concat")
    if concat is None or not isinstance(concat.args[0], relax.Tuple) or len(concat.args[0].fields) != 2:
        return None
    half, again = (graph.origin(field) for field in concat.args[0].fields)
    if half != again or int(concat.attrs.axis) not in (-1, len(shape(half)) - 1):
        return None
    product = graph.value(_behind_shape(graph, half))
    if not isinstance(product, relax.Call) or product.op.name not in ("relax.multiply", "relax.matmul"):
        return None
    for positions, frequencies in (product.args, reversed(product.args)):
        values = constant(_behind_shape(graph, frequencies))
        source = graph.call(_behind_shape(graph, positions), "relax.astype")
        if values is None or source is None or str(source.ty.dtype) != "float32":
            continue
        ids = _behind_shape(graph, source.args[0])
        fits = len(shape(ids)) == 2 and ends_with(shape(half), [shape(ids)[1], values.size])
        if fits and str(ids.ty.dtype).startswith("int"):
            return ids, values.reshape(-1).astype(np.float32)
    return None


def _behind_shape(graph: Graph, expression: Any) -> Any:
    """What an expression is before operators that only move or repeat it."""
    while True:
        value = graph.value(expression)
        if isinstance(value, relax.Call) and value.op.name in _SHAPE_ONLY:
            expression = value.args[0]
        else:
            return graph.origin(expression)
