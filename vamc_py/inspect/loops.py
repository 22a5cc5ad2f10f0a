"""How many arithmetic operations the loops do that TVM writes for its own operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tvm import ir, s_tir, sym, tirx

_BINARY = (tirx.Add, tirx.Sub, tirx.Mul, tirx.Div, tirx.Max, tirx.Min)
_NO_OPERATIONS = ("if_then_else", "likely", "reinterpret")  # last part of the names; they choose or rename a value


class _UnknownLengthError(Exception):
    """A loop whose length depends on data, or a statement that TVM's own operators do not have."""


def dimension(size: Any, symbols: Mapping[str, int]) -> int:
    """The value of a dimension, its variables replaced by those of ``symbols`` of the same name.

    KeyError for a variable that is not among them.
    """
    if isinstance(size, int):
        return size
    analyzer = sym.Analyzer()
    for var in tirx.analysis.undefined_vars(size):
        analyzer.bind(var, tirx.IntImm(str(var.ty.dtype), symbols[var.name]))
    return int(analyzer.simplify(size))


def loop_operations(function: Any, shapes: Sequence[Sequence[int]]) -> int | None:
    """Floating-point operations of a PrimFunc called with buffers of these shapes, in the order of its parameters.

    Additions, subtractions, multiplications, divisions, maxima, minima and calls such as exp count as one each; casts,
    copies and integer arithmetic as none, the start values of sums neither. None where the number depends on data.
    """
    values: dict[Any, int] = {}
    for parameter, shape in zip(function.params, shapes, strict=True):
        for symbol, size in zip(parameter.ty.shape, shape, strict=True):
            if isinstance(symbol, tirx.Var):
                values[symbol] = size
    try:
        return _statement(function.body, values)
    except _UnknownLengthError:
        return None


def _statement(statement: Any, values: Mapping[Any, int]) -> int:
    if isinstance(statement, tirx.For):
        return _length(statement.extent, values) * _statement(statement.body, values)
    if isinstance(statement, tirx.SeqStmt):
        return sum(_statement(one, values) for one in statement.seq)
    if isinstance(statement, s_tir.SBlockRealize):
        return _statement(statement.block.body, values)
    if isinstance(statement, tirx.IfThenElse):
        branches = [statement.then_case, *([statement.else_case] if statement.else_case is not None else [])]
        return max(_statement(branch, values) for branch in branches)
    if isinstance(statement, tirx.BufferStore | tirx.Evaluate | tirx.Bind):
        return _expression(statement.value)
    if isinstance(statement, tirx.AllocBuffer | tirx.DeclBuffer):
        return 0
    raise _UnknownLengthError


def _length(extent: Any, values: Mapping[Any, int]) -> int:
    analyzer = sym.Analyzer()
    for var in tirx.analysis.undefined_vars(extent):
        if var not in values:
            raise _UnknownLengthError
        analyzer.bind(var, tirx.IntImm(str(var.ty.dtype), values[var]))
    length = analyzer.simplify(extent)
    if not isinstance(length, tirx.IntImm):
        raise _UnknownLengthError
    return int(length)


def _expression(value: Any) -> int:
    """Operations of one evaluation."""
    floating = "float" in str(value.ty.dtype)
    if isinstance(value, _BINARY):
        return int(floating) + _expression(value.a) + _expression(value.b)
    if isinstance(value, tirx.Cast):
        return _expression(value.value)
    if isinstance(value, tirx.Select):
        return max(_expression(value.true_value), _expression(value.false_value))
    if isinstance(value, ir.Call):
        inside = [_expression(argument) for argument in value.args if isinstance(argument, tirx.Expr)]
        name = str(getattr(value.op, "name", "")).rpartition(".")[2]
        return max(inside, default=0) if name in _NO_OPERATIONS else int(floating) + sum(inside)
    return 0  # a constant, a variable, an element of a buffer
