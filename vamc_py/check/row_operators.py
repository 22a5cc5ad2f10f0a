"""Operators that do the same for any number of elements or rows: compiled once for all shapes.

Compiling an operator takes TVM about 20 ms, and a check meets each one in many shapes.
"""

from __future__ import annotations

from typing import Any

from tvm import ir, relax, tirx

from vamc_py.pipeline.graph import operator_name
from vamc_py.pipeline.matching import same_shape, shape

_ELEMENTWISE = {
    f"relax.{name}"
    for name in (
        "power", "exp", "log", "sqrt", "rsqrt", "sigmoid", "tanh", "cos", "sin", "erf", "maximum", "minimum", "abs",
        "nn.silu", "nn.gelu", "nn.gelu_tanh", "nn.relu",
    )
}  # fmt: skip
_LAST = {"relax.nn.softmax", "relax.mean", "relax.sum", "relax.max"}


def row_call(call: Any) -> Any | None:
    """The call on arguments of one dimension, or of rows, of any length; None for an operator that is not of the kind.

    ``call`` has static shapes. Scalars stay scalars.
    """
    name = operator_name(call)
    if name in _ELEMENTWISE:
        return _elementwise(call)
    return _over_last_axis(call) if name in _LAST else None


def _elementwise(call: Any) -> Any | None:
    n = tirx.Var("n", "int64")
    arguments = []
    for index, argument in enumerate(call.args):
        if not isinstance(argument, relax.Var | ir.GenericConst):
            return None
        scalar = not shape(argument)
        if not scalar and not same_shape(shape(argument), shape(call)):
            return None
        kind = relax.TensorType([] if scalar else [n], str(argument.ty.dtype))
        arguments.append(relax.Var(f"argument_{index}", kind))
    if not any(shape(argument) for argument in arguments):
        return None
    return relax.Call(call.op, arguments, call.attrs, call.ty_args)


def _over_last_axis(call: Any) -> Any | None:
    (x,) = call.args
    rank = len(shape(x))
    axes = call.attrs.axis
    if axes is None or rank < 2:
        return None
    axes = [int(axis) for axis in axes] if hasattr(axes, "__len__") else [int(axes)]
    if [axis % rank for axis in axes] != [rank - 1]:
        return None
    rows = relax.Var("rows", relax.TensorType([tirx.Var("n", "int64"), shape(x)[-1]], str(x.ty.dtype)))
    if operator_name(call) == "relax.nn.softmax":
        return relax.op.nn.softmax(rows, axis=-1)
    reduction = {"relax.mean": relax.op.mean, "relax.sum": relax.op.sum, "relax.max": relax.op.max}
    return reduction[operator_name(call)](rows, axis=[-1], keepdims=bool(call.attrs.keepdims))
