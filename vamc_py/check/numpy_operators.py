"""Operators that numpy computes as TVM defines them: they move elements, or do one exactly rounded operation on each.

Matrix products are here because TVM's unscheduled loops take seconds for a layer of a real model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vamc_py.check.values import Array, Value, dimensions, number
from vamc_py.weights.plan import numpy_dtype


def _matmul(call: Any, left: Array, right: Array) -> Array:
    dtype = numpy_dtype(str(call.ty.dtype))
    left, right = left.astype(dtype, copy=False), right.astype(dtype, copy=False)
    if left.ndim > 2 and right.ndim == 2:  # as rows: numpy's BLAS is far faster on matrices
        left = left.reshape(-1, left.shape[-1])
    return np.asarray(np.matmul(left, right)).reshape(dimensions(call.ty))


def _permute_dims(call: Any, x: Array) -> Array:
    return np.transpose(x, None if call.attrs.axes is None else [int(axis) for axis in call.attrs.axes])


def _cast(call: Any, x: Array) -> Array:
    with np.errstate(over="ignore"):  # too large becomes infinite, as in TVM
        return x.astype(numpy_dtype(str(call.ty.dtype)))


def _concat(call: Any, *fields: Array) -> Array:
    return np.concatenate(fields, axis=int(call.attrs.axis))


def _slice(call: Any, x: Array) -> Array:
    axes, begin, end = ([number(value) for value in group] for group in call.args[1:4])
    strides = [number(value) for value in call.args[4]] if len(call.args) > 4 else [1] * len(axes)
    taken = [slice(None)] * x.ndim
    for axis, first, last, stride in zip(axes, begin, end, strides, strict=True):
        taken[axis] = slice(first, last, stride)
    return x[tuple(taken)]


def _take(call: Any, x: Array, indices: Array) -> Array:
    axis = None if call.attrs.axis is None else int(call.attrs.axis)
    return np.take(x, indices, axis=axis)  # IndexError for an index that is out of range, whatever the mode


def _repeat(call: Any, x: Array) -> Array:
    return np.repeat(x, int(call.attrs.repeats), axis=None if call.attrs.axis is None else int(call.attrs.axis))


def _to_shape(call: Any, x: Array) -> Array:
    return x.reshape(dimensions(call.ty))


def _binary(operation: Callable[[Array, Array], Array]) -> Callable[..., Array]:
    def compute(_call: Any, left: Array, right: Array) -> Array:
        with np.errstate(all="ignore"):
            return operation(left, right)

    return compute


_MOVING: dict[str, Callable[..., Array]] = {
    "relax.permute_dims": _permute_dims,
    "relax.reshape": _to_shape,
    "relax.expand_dims": _to_shape,
    "relax.squeeze": _to_shape,
    "relax.concat": _concat,
    "relax.strided_slice": _slice,
    "relax.take": _take,
    "relax.repeat": _repeat,
    "relax.broadcast_to": lambda call, x: np.broadcast_to(x, dimensions(call.ty)),
}
_FLOATING: dict[str, Callable[..., Array]] = {
    "relax.matmul": _matmul,
    "relax.astype": _cast,
    "relax.add": _binary(np.add),
    "relax.subtract": _binary(np.subtract),
    "relax.multiply": _binary(np.multiply),
    "relax.divide": _binary(np.divide),
    "relax.negative": lambda _call, x: np.negative(x),
}


_EXACT = {"float32", "float64"}
_WIDENED = _EXACT | {"float16", "bfloat16"}
# (element types of the arguments, of the result), where they may be others than float32 and float64
_TYPES = {
    "relax.matmul": (_WIDENED, _EXACT),
    "relax.astype": (_WIDENED | {"int8", "int32", "int64"}, _WIDENED),
}


def numpy_operator(name: str, call: Any, values: Sequence[Value]) -> Array | None:
    """The result of a call with static shapes on these values; None for an operator that numpy is not asked for."""
    compute = _MOVING.get(name)
    if compute is None and name in _FLOATING:
        taken, given = _TYPES.get(name, (_EXACT, _EXACT))
        fits = all(value.array.dtype.name in taken for value in values) and str(call.ty.dtype) in given
        compute = _FLOATING[name] if fits else None
    return None if compute is None else compute(call, *(value.array for value in values))
