"""Runs a Relax function operator by operator, so that every value on the way can be seen and replaced.

Operators of the dialect run by their reference, kernels as they are. The caches are changed in place, as in the
compiled module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm import ir, relax, tirx

from vamc_py.check.operators import Operators, SameExpressions, tensors_read, with_tensors
from vamc_py.check.values import Result, Value, number
from vamc_py.dialect import operators
from vamc_py.pipeline.graph import bindings, operator_name

Each = Callable[[str, Result], Result]  # the name and the result of a binding -> the result that others shall read


class OperatorError(Exception):
    """A binding of the function that was asked for cannot be run; the cause says why."""

    def __init__(self, binding: str, operator: str, cause: Exception) -> None:
        super().__init__(f"{binding} = {operator or 'a value'} cannot be run: {_reason(cause)}")
        self.binding = binding
        self.operator = operator


class Interpreter:
    """Runs functions for a target, a ``tvm.target.Target`` of this machine; what it compiled it keeps."""

    def __init__(self, target: Any) -> None:
        self._operators = Operators(target)
        self._references: SameExpressions[tuple[Any, Any]] = SameExpressions()

    def run(self, module: Any, function: Any, arguments: Sequence[Result], each: Each | None = None) -> Result:
        """The function's result; ``each`` hears every binding, in order. OperatorError for one that cannot run."""
        return self._run(module, static_shapes(function, arguments), arguments, each)

    def _run(self, module: Any, function: Any, arguments: Sequence[Result], each: Each | None) -> Result:
        known: dict[Any, Result] = dict(zip(function.params, arguments, strict=True))
        for var, value in bindings(function):
            try:
                result = self._value(module, value, known)
            except OperatorError:
                raise
            except Exception as error:
                raise OperatorError(str(var.name), operator_name(value), error) from error
            known[var] = result if each is None else each(str(var.name), result)
        return self._value(module, function.body.body, known)

    def _value(self, module: Any, expression: Any, known: dict[Any, Result]) -> Result:
        if isinstance(expression, relax.Var):
            return known[expression]
        if isinstance(expression, ir.GenericConst):
            return Value(np.asarray(expression.value.numpy()))
        if isinstance(expression, relax.Tuple):
            return tuple(self._value(module, field, known) for field in expression.fields)
        if isinstance(expression, relax.TupleGetItem):
            fields = self._value(module, expression.tuple_value, known)
            assert isinstance(fields, tuple)
            field: Result = fields[int(expression.index)]
            return field
        if isinstance(expression, relax.Call):
            return self._call(module, expression, known)
        raise TypeError(f"an expression of the kind {type(expression).__name__} cannot be run")

    def _call(self, module: Any, call: Any, known: dict[Any, Result]) -> Result:
        if isinstance(call.op, ir.GlobalVar):
            arguments = [self._value(module, argument, known) for argument in call.args]
            return self._run(module, static_shapes(module[call.op], arguments), arguments, None)
        name = operator_name(call)
        if name in ("relax.call_tir", "relax.call_tir_inplace"):
            kernel = module[call.args[0]]
            assert isinstance(kernel, tirx.PrimFunc)
            read = [self._kernel_argument(module, argument, known) for argument in call.args[1].fields]
            return self._operators.run_kernel(call, kernel, read)
        arguments = [self._value(module, argument, known) for argument in tensors_read(call)]
        if name in operators():
            reference, function = self._references.find(call, lambda: _reference(call))
            return self._run(reference, function, arguments, None)
        return self._operators.run(call, arguments)

    def _kernel_argument(self, module: Any, expression: Any, known: dict[Any, Result]) -> Value | int:
        if not isinstance(expression, relax.Var | ir.GenericConst | relax.TupleGetItem):
            return number(expression)
        value = self._value(module, expression, known)
        assert isinstance(value, Value)
        return value


def static_shapes(function: Any, arguments: Sequence[Result]) -> Any:
    """The function for arguments of these shapes, without symbolic dimensions."""
    sizes: dict[Any, int] = {}

    def collect(kind: Any, result: Result) -> None:
        if isinstance(result, tuple):
            for field, value in zip(kind.fields, result, strict=True):
                collect(field, value)
        else:
            for dimension, size in zip(kind.shape, result.shape, strict=True):
                if isinstance(dimension, tirx.Var):
                    sizes[dimension] = size

    for parameter, argument in zip(function.params, arguments, strict=True):
        collect(parameter.ty, argument)
    return function.bind_symbolic_vars(sizes) if sizes else function


def _reference(call: Any) -> tuple[Any, Any]:
    """A call of the dialect as (module, function) in TVM's operators and the reference's kernels."""
    builder = relax.BlockBuilder()
    parameters = [relax.Var(f"argument_{i}", read.ty) for i, read in enumerate(tensors_read(call))]
    with builder.function("reference", parameters):
        with builder.dataflow():
            lowered = operators()[operator_name(call)].reference(
                builder, builder.normalize(with_tensors(call, parameters))
            )
            result = builder.emit_output(lowered)
        builder.emit_func_output(result)
    module = builder.get()
    return module, module["reference"]


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__
