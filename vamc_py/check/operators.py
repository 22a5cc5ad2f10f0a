"""Single operators and kernels of a module, each compiled by TVM once and called on values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import tvm
from tvm import ir, relax
from tvm_ffi import structural_equal, structural_hash

from vamc_py._tvm import compile_module
from vamc_py.check.numpy_operators import numpy_operator
from vamc_py.check.row_operators import row_call
from vamc_py.check.values import Result, Value, as_argument, dimensions, from_tvm, tensors_of
from vamc_py.pipeline.build import lowering
from vamc_py.pipeline.graph import operator_name
from vamc_py.weights.plan import numpy_dtype

Kept = TypeVar("Kept")
Compiled = Callable[..., Any]


class Operators:
    """Runs calls of TVM's operators, with static shapes, and of kernels; what it compiled it keeps.

    The target is a ``tvm.target.Target`` of this machine.
    """

    def __init__(self, target: Any) -> None:
        self.target = target
        self._calls: SameExpressions[Compiled] = SameExpressions()
        self._kernels: SameExpressions[Compiled] = SameExpressions()

    def run(self, call: Any, arguments: Sequence[Result]) -> Result:
        """The result of an operator; ``arguments`` are the results of its ``tensors_read``."""
        values = [value for argument in arguments for value in tensors_of(argument)]
        name = operator_name(call)
        computed = numpy_operator(name, call, values)
        if computed is not None:
            return Value(computed)
        row = row_call(call)
        if row is not None:
            compiled = self._calls.find(row, lambda: self._compile_call(row))
            flat = [_as_rows(value, kind.ty) for value, kind in zip(values, tensors_read(row), strict=True)]
            return Value(compiled(*(value.tensor for value in flat)).numpy().reshape(dimensions(call.ty)))
        compiled = self._calls.find(call, lambda: self._compile_call(call))
        result = from_tvm(compiled(*(as_argument(argument) for argument in arguments)))
        if "inplace" in name:
            for value in values:
                value.written()
        return result

    def run_kernel(self, call: Any, kernel: Any, arguments: Sequence[Value | int]) -> Result:
        """The result of ``call_tir`` or ``call_tir_inplace`` of a kernel; tensors may be changed in place."""
        compiled = self._kernels.find(kernel, lambda: self._compile_kernel(kernel))
        types = list(call.ty.fields) if isinstance(call.ty, relax.TupleType) else [call.ty]
        places = [-1] * len(types)
        if operator_name(call) == "relax.call_tir_inplace":
            places = [int(place) for place in call.attrs.inplace_indices]
        results: list[Any] = [
            _unwritten(kind) if at < 0 else arguments[at] for kind, at in zip(types, places, strict=True)
        ]
        fresh = [result.tensor for result, at in zip(results, places, strict=True) if at < 0]
        compiled(*(one.tensor if isinstance(one, Value) else one for one in arguments), *fresh)
        for result in results:
            result.written()
        return tuple(results) if isinstance(call.ty, relax.TupleType) else results[0]

    def _compile_call(self, call: Any) -> Compiled:
        builder = relax.BlockBuilder()
        parameters = [relax.Var(f"argument_{i}", read.ty) for i, read in enumerate(tensors_read(call))]
        with builder.function("operator", parameters):
            with builder.dataflow():
                result = builder.emit_output(with_tensors(call, parameters))
            builder.emit_func_output(result)
        executable = compile_module(builder.get(), self.target, relax_pipeline=lowering())
        compiled: Compiled = relax.VirtualMachine(executable, tvm.cpu())["operator"]
        return compiled

    def _compile_kernel(self, kernel: Any) -> Compiled:
        module = tvm.IRModule({"kernel": kernel.with_attr("global_symbol", "kernel")})
        compiled: Compiled = compile_module(module, self.target)["kernel"]
        return compiled


def tensors_read(call: Any) -> list[Any]:
    """The arguments of an operator that are tensors, or variables of tuples, in order; also those in written tuples."""

    def within(expression: Any) -> Iterator[Any]:
        if isinstance(expression, relax.Tuple):
            for field in expression.fields:
                yield from within(field)
        elif isinstance(expression, ir.GenericConst | relax.TupleGetItem | relax.Var):
            yield expression

    return [read for argument in call.args for read in within(argument)]


def with_tensors(call: Any, tensors: Sequence[Any]) -> Any:
    """The call with these expressions in the place of its ``tensors_read``."""
    rest = iter(tensors)

    def replaced(expression: Any) -> Any:
        if isinstance(expression, relax.Tuple):
            return relax.Tuple([replaced(field) for field in expression.fields])
        return next(rest) if isinstance(expression, ir.GenericConst | relax.TupleGetItem | relax.Var) else expression

    return relax.Call(call.op, [replaced(argument) for argument in call.args], call.attrs, call.ty_args)


def _as_rows(value: Value, kind: Any) -> Value:
    """The value with the rank of this type, whose first dimension is as long as it has to be."""
    rank = len(kind.shape)
    return value if rank == 0 else Value(value.array.reshape(-1, *(value.shape[len(value.shape) - rank + 1 :])))


def _unwritten(kind: Any) -> Value:
    """Memory for a result: large numbers, so that a part that the kernel forgets does not look right by chance."""
    dtype = numpy_dtype(str(kind.dtype))
    return Value(np.full(dimensions(kind), 99, dtype))


class SameExpressions(Generic[Kept]):
    """What was made for expressions, once for all that are equal but for the names of their variables."""

    def __init__(self) -> None:
        self._made: dict[int, list[tuple[Any, Kept]]] = {}

    def find(self, expression: Any, make: Callable[[], Kept]) -> Kept:
        """What was made for such an expression; made now where there is none yet."""
        entries = self._made.setdefault(structural_hash(expression, map_free_vars=True), [])
        for known, kept in entries:
            if structural_equal(known, expression, map_free_vars=True):
                return kept
        kept = make()
        entries.append((expression, kept))
        return kept
