"""What an ONNX graph computes about shapes and constants, in numpy: nothing of it is left for run time.

Shapes that depend on the lengths are arrays of dtype object: ints and TVM's expressions side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import helper

from vamc_py.pipeline.matching import same_dimension, static

Array = npt.NDArray[Any]
Attributes = Mapping[str, Any]


def tidied(values: Any) -> Array:
    """An array, also of a single value; of objects that are all numbers, as int64."""
    if not isinstance(values, np.ndarray | np.generic):  # numpy gives single objects out as they are
        single = np.empty((), object)
        single[()] = values
        values = single
    array: Array = np.asarray(values)
    if array.dtype != object:
        return array
    numbers = [static(value) for value in array.reshape(-1)]
    return array if None in numbers else np.array(numbers, np.int64).reshape(array.shape)


def float_type(code: int) -> np.dtype[Any]:
    """The numpy type of an ONNX element type; every floating-point type is float32 here."""
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(code))
    floating = dtype.kind == "f" or dtype.name == "bfloat16"
    return np.dtype(np.float32) if floating else dtype


def axes_of(attributes: Attributes, values: list[Array], position: int) -> list[int] | None:
    """``axes``: an attribute before opset 13 (18 in reductions), an input since."""
    if len(values) > position:
        return [int(axis) for axis in values[position].reshape(-1)]
    axes = attributes.get("axes")
    return None if axes is None else [int(axis) for axis in axes]


def _cast(values: list[Array], attributes: Attributes) -> Array:
    target = float_type(attributes["to"])
    if values[0].dtype == object:
        return values[0]  # a length stays one
    return values[0].astype(target)


def _unsqueeze(values: list[Array], attributes: Attributes) -> Array:
    axes = axes_of(attributes, values, 1) or []
    return np.expand_dims(values[0], tuple(axes))


def _squeeze(values: list[Array], attributes: Attributes) -> Array:
    axes = axes_of(attributes, values, 1)
    return np.squeeze(values[0], None if axes is None else tuple(axes))


def _slice(values: list[Array], _attributes: Attributes) -> Array:
    data, starts, ends, *rest = values
    axes = rest[0] if rest else np.arange(len(starts))
    steps = rest[1] if len(rest) > 1 else np.ones(len(starts), np.int64)
    index = [slice(None)] * data.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        index[int(axis)] = slice(int(start), int(end), int(step))
    return data[tuple(index)]


def _divide(values: list[Array], _attributes: Attributes) -> Array:
    whole = all(value.dtype == object or value.dtype.kind in "iu" for value in values)
    result: Array = values[0] // values[1] if whole else values[0] / values[1]
    return result


def _equal(values: list[Array], _attributes: Attributes) -> Array:
    if object not in (values[0].dtype, values[1].dtype):
        return np.equal(values[0], values[1])
    # A length equals a number only where it is that number: none is -1 by chance.
    pairs = np.broadcast(values[0], values[1])
    return np.array([same_dimension(_plain(a), _plain(b)) for a, b in pairs], bool).reshape(pairs.shape)


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, np.integer) else value


def _fill(values: list[Array], attributes: Attributes) -> Array:
    value = attributes.get("value")
    filled = np.zeros(1, np.float32) if value is None else value
    return np.full([int(size) for size in values[0]], filled.reshape(()), filled.dtype)


def _gather(values: list[Array], attributes: Attributes) -> Array:
    return np.take(values[0], values[1], axis=int(attributes.get("axis", 0)))


def _reshape(values: list[Array], _attributes: Attributes) -> Array:
    sizes = [values[0].shape[at] if size == 0 else int(size) for at, size in enumerate(values[1])]
    return values[0].reshape(sizes)


def _transpose(values: list[Array], attributes: Attributes) -> Array:
    return np.transpose(values[0], attributes.get("perm"))


def _reduce(function: Callable[..., Any]) -> Callable[[list[Array], Attributes], Array]:
    def reduce(values: list[Array], attributes: Attributes) -> Array:
        axes = axes_of(attributes, values, 1)
        keep = bool(attributes.get("keepdims", 1))
        return np.asarray(function(values[0], axis=None if axes is None else tuple(axes), keepdims=keep))

    return reduce


def _by(function: Callable[..., Any]) -> Callable[[list[Array], Attributes], Array]:
    return lambda values, _attributes: np.asarray(function(*values))


FUNCTIONS: dict[str, Callable[[list[Array], Attributes], Array]] = {
    "Cast": _cast,
    "Identity": _by(lambda value: value),
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Slice": _slice,
    "Gather": _gather,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Concat": lambda values, attributes: np.concatenate(values, axis=int(attributes["axis"])),
    "ConstantOfShape": _fill,
    "Expand": _by(lambda value, shape: value * np.ones([int(size) for size in shape], value.dtype)),
    "Range": _by(lambda start, limit, delta: np.arange(int(start), int(limit), int(delta))),
    "ReduceProd": _reduce(np.prod),
    "Equal": _equal,
    "Where": _by(np.where),
    "Add": _by(np.add),
    "Sub": _by(np.subtract),
    "Mul": _by(np.multiply),
    "Div": _divide,
    "Pow": _by(np.power),
    "Sqrt": _by(np.sqrt),
    "Reciprocal": _by(np.reciprocal),
    "Neg": _by(np.negative),
    "Cos": _by(np.cos),
    "Sin": _by(np.sin),
    "Exp": _by(np.exp),
    "Not": _by(np.logical_not),
}
"""By ONNX operator: its result, from the values of its inputs and its attributes."""
