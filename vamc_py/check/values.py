"""Values of a module while it runs: tensors that numpy and TVM both read."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import sym

Array = NDArray[Any]


class Value:
    """A tensor. It is copied between numpy and TVM when the other one first asks for it, so a weight is copied once."""

    def __init__(self, array: Array | None = None, tensor: Any = None) -> None:
        self._array = array
        self._tensor = tensor

    @property
    def array(self) -> Array:
        """The tensor for numpy; bfloat16 as ml_dtypes has it."""
        if self._array is None:
            self._array = self._tensor.numpy()
        return self._array

    @property
    def tensor(self) -> Any:
        """The tensor for TVM, aligned as kernels want it."""
        if self._tensor is None:
            self._tensor = to_tvm(self._array)
        return self._tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's dimensions."""
        if self._array is not None:
            return self._array.shape
        return tuple(int(dimension) for dimension in self._tensor.shape)

    def written(self) -> None:
        """A kernel has changed ``tensor`` in place."""
        self._array = None


Result = Value | tuple[Any, ...]  # what an expression gives: a tensor, or a tuple of results


def to_tvm(array: Array | None) -> Any:
    """A tensor of TVM with a copy of the array."""
    # np.ascontiguousarray would give a scalar a dimension.
    return tvm.runtime.tensor(np.array(array, order="C"))


def tensors_of(result: Result) -> list[Value]:
    """The tensors of a result, those of nested tuples in order."""
    if isinstance(result, Value):
        return [result]
    return [value for field in result for value in tensors_of(field)]


def as_argument(result: Result) -> Any:
    """The result as a compiled function takes it."""
    return result.tensor if isinstance(result, Value) else tuple(as_argument(field) for field in result)


def from_tvm(result: Any) -> Result:
    """What a compiled function returned."""
    return Value(tensor=result) if hasattr(result, "numpy") else tuple(from_tvm(field) for field in result)


def number(expression: Any) -> int:
    """The value of a dimension or an index that has no variable in it, be it written as a sum."""
    try:
        return int(expression)
    except (TypeError, ValueError):
        return int(sym.Analyzer().simplify(expression))


def dimensions(kind: Any) -> tuple[int, ...]:
    """The shape of a tensor type without symbolic dimensions."""
    return tuple(number(dimension) for dimension in kind.shape)
