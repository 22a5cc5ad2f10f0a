"""Small questions about Relax expressions that the passes share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tvm_ffi
from numpy.typing import NDArray
from tvm import ir, relax, sym

ELEMENTWISE = {
    f"relax.{name}"
    for name in (
        "add", "subtract", "multiply", "divide", "negative", "exp", "tanh", "sigmoid", "sqrt", "rsqrt", "cos", "sin",
        "maximum", "minimum", "clip", "astype", "nn.silu", "nn.gelu", "nn.gelu_tanh", "nn.relu",
    )
}  # fmt: skip
"""Operators that compute each element by itself."""


def constant(expression: Any) -> NDArray[Any] | None:
    """The value of a Relax constant as numpy, else None."""
    return np.asarray(expression.value.numpy()) if isinstance(expression, ir.GenericConst) else None


def scalar(expression: Any) -> float | None:
    """The value of a constant of one element, else None."""
    value = constant(expression)
    return float(value.reshape(())) if value is not None and value.size == 1 else None


def shape(expression: Any) -> list[Any]:
    """The dimensions of a tensor expression; empty for anything else."""
    kind = expression.ty
    return list(kind.shape) if isinstance(kind, relax.TensorType) and kind.shape is not None else []


def static(dimension: Any) -> int | None:
    """The value of a constant dimension, else None."""
    try:
        return int(dimension)
    except (TypeError, ValueError, AttributeError):
        return None


def same_shape(left: Sequence[Any], right: Sequence[Any]) -> bool:
    """Whether two shapes are equal, dimension by dimension."""
    return len(left) == len(right) and all(same_dimension(a, b) for a, b in zip(left, right, strict=True))


def same_dimension(left: Any, right: Any) -> bool:
    """Whether two dimensions are equal: numbers by value, symbolic ones for every value of their variables."""
    a, b = static(left), static(right)
    if a is not None or b is not None:
        return a == b
    # Importers write p + n here and n + p there.
    return bool(tvm_ffi.structural_equal(left, right) or sym.Analyzer().can_prove_equal(left, right))


_OPEN_END = 2**63 - 1  # how torch writes a slice without an end


def reaches_end(end: Any, size: Any) -> bool:
    """Whether a slice that stops before ``end`` takes the last element of an axis of this size."""
    a, b = static(end), static(size)
    if a is not None and (a >= _OPEN_END or (b is not None and a >= b)):
        return True
    return same_dimension(end, size)


def ends_with(full: Sequence[Any], tail: Sequence[Any]) -> bool:
    """Whether a shape is ``tail`` behind any number of ones."""
    extra = len(full) - len(tail)
    return extra >= 0 and all(static(d) == 1 for d in full[:extra]) and same_shape(full[extra:], tail)
