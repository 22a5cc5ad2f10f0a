"""How an ``R.vamc`` operator is defined: its types and its reference lowering."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vamc_py import _tvm

InferType = Callable[[Any], Any]  # call -> type
Reference = Callable[[Any, Any], Any]  # block builder, call -> an expression in TVM's own operators
Leeway = Callable[[Any], float]  # call -> how far a kernel may lie from the reference


@dataclass(frozen=True)
class Operator:
    """An operator that is its own specification: kernels are tested against ``reference``."""

    name: str  # as in R.vamc.<name>
    op: Any  # tvm.ir.Op
    reference: Reference
    documentation: str
    # What the specification leaves to kernels beyond the order of sums: |kernel - reference| / |reference|, Frobenius
    # norms.
    leeway: Leeway

    @property
    def full_name(self) -> str:
        """The name in Relax: ``relax.vamc.<name>``."""
        return f"relax.vamc.{self.name}"


_OPERATORS: dict[str, Operator] = {}


def _none(_call: Any) -> float:
    return 0.0


def define(
    name: str, *, infer_type: InferType, reference: Reference, leeway: Leeway = _none
) -> Callable[[Callable[..., Any]], Any]:
    """Decorates the function that makes a call of the operator; its docstring documents the operator.

    The decorated function returns ``(arguments, attributes)``; the caller of the operator gets the Relax call.
    """

    def decorate(function: Callable[..., tuple[list[Any], dict[str, Any]]]) -> Callable[..., Any]:
        def make(*arguments: Any, **attributes: Any) -> Any:
            positional, named = function(*arguments, **attributes)
            return _tvm.make_call(op, positional, named)

        op = _tvm.register_operator(name, infer_type, make)
        _OPERATORS[f"relax.vamc.{name}"] = Operator(name, op, reference, function.__doc__ or "", leeway)
        make.__name__, make.__doc__ = name, function.__doc__
        return make

    return decorate


def operators() -> dict[str, Operator]:
    """All operators by full name."""
    return dict(_OPERATORS)


def tensor(shape: list[Any], dtype: str = "float32") -> Any:
    """A tensor type."""
    return _tvm.TensorType(shape, dtype)


def shape_of(expression: Any) -> list[Any]:
    """The dimensions of a tensor expression: TVM integers or symbolic expressions."""
    return list(expression.ty.shape)


def dtype_of(expression: Any) -> str:
    """The element type of a tensor expression, as TVM writes it ("float32")."""
    return str(expression.ty.dtype)
