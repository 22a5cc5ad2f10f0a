"""The calls of the function that runs: one for each kernel, with where its arguments come from."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import tvm
from tvm import ir, relax

from vamc_py.pipeline.build import fusing
from vamc_py.pipeline.graph import bindings, operator_name, variables
from vamc_py.pipeline.program import OPERATOR_ATTRIBUTE, Program
from vamc_py.target.description import TargetDescription

_KERNEL_CALLS = ("relax.call_tir", "relax.call_tir_inplace", "relax.call_dps_packed")
_COUNTER = re.compile(r"(?<=[a-z])\d+(?=_|$)")  # what TVM appends to names of functions that it made before

ArgumentKind = Literal["node", "input", "cache", "parameter", "constant"]


@dataclass(frozen=True)
class Argument:
    """What a call reads."""

    kind: ArgumentKind
    name: str  # of the call that made it, of the function's input, cache or parameter; "" for a constant
    type: Any  # relax.TensorType
    part: int = 0  # which of the results of the call, or which constant of the function


@dataclass(frozen=True)
class Call:
    """One call of a kernel."""

    var: Any  # that its result is bound to
    name: str  # the variable's, or that and a number where the function has the name twice
    symbol: str  # the kernel's
    operator: str  # that it serves; of TVM's own loops, the function's name without the number behind it
    ours: bool  # a kernel of the schedules (True) or TVM's own loops
    function: Any  # tirx.PrimFunc; None where another library brings the code
    arguments: tuple[Argument, ...]
    results: tuple[Any, ...]  # types of what it writes, without the arguments that it changes in place


@dataclass(frozen=True)
class Names:
    """How the inputs, caches and parameters of a bundled step are called."""

    inputs: tuple[str, ...]
    caches: tuple[str, ...]
    parameters: tuple[str, ...]


def fused_module(program: Program, target: TargetDescription) -> Any:
    """The module of a complete program as it will run: TVM's own operators made loops and fused."""
    with target.tvm_target():
        return tvm.transform.Sequential(fusing())(program.module)


def read_calls(function: Any, module: Any, names: Names) -> tuple[Call, ...]:
    """The kernel calls of a ``step`` of ``fused_module``, in the order in which they run.

    Views (reshapes, items of tuples) are no calls: whoever reads them reads what they are views of.
    """
    return tuple(_Reader(function, module, names).calls())


class _Reader:
    def __init__(self, function: Any, module: Any, names: Names) -> None:
        self.function = function
        self.module = module
        self.sources: dict[Any, Argument | tuple[Argument, ...]] = {}
        *inputs, caches, parameters = function.params
        for name, var in zip(names.inputs, inputs, strict=True):
            self.sources[var] = Argument("input", name, var.ty)
        self.sources[caches] = _fields("cache", names.caches, caches.ty)
        self.sources[parameters] = _fields("parameter", names.parameters, parameters.ty)
        self.used: set[str] = set()
        self.constants = itertools.count()

    def calls(self) -> Iterator[Call]:
        for var, value in bindings(self.function):
            if operator_name(value) in _KERNEL_CALLS:
                call = self._call(var, value)
                self.sources[var] = _results_of(call, value)
                yield call
            else:
                self.sources[var] = self._view(value)

    def _call(self, var: Any, value: Any) -> Call:
        callee, given = value.args[0], value.args[1]
        symbol = str(callee.name_hint) if isinstance(callee, ir.GlobalVar) else str(callee.global_symbol)
        function = self.module[symbol] if isinstance(callee, ir.GlobalVar) else None
        operator = (function.attrs or {}).get(OPERATOR_ATTRIBUTE) if function is not None else None
        return Call(
            var=var,
            name=self._unique(str(var.name)),
            symbol=symbol,
            operator=_COUNTER.sub("", symbol) if operator is None else str(operator),
            ours=operator is not None,
            function=function,
            arguments=tuple(self._arguments(given)),
            results=_results(value),
        )

    def _arguments(self, given: Any) -> Iterator[Argument]:
        for field in given.fields if isinstance(given, relax.Tuple) else [given]:
            source = self._view(field)
            for one in source if isinstance(source, tuple) else (source,):
                # A view has a shape of its own.
                yield replace(one, type=field.ty) if isinstance(field.ty, relax.TensorType) else one

    def _view(self, value: Any) -> Argument | tuple[Argument, ...]:
        """What stands behind an expression that is no kernel call."""
        if isinstance(value, relax.Var):
            return self.sources[value]
        if isinstance(value, relax.TupleGetItem):
            source = self._view(value.tuple_value)
            return source[value.index] if isinstance(source, tuple) else source
        if isinstance(value, relax.Tuple):
            return tuple(one for field in value.fields for one in _several(self._view(field)))
        read = variables(value)
        return self.sources[read[0]] if read else Argument("constant", "", value.ty, next(self.constants))

    def _unique(self, name: str) -> str:
        unique, number = name, 0
        while unique in self.used:
            number += 1
            unique = f"{name}_{number}"
        self.used.add(unique)
        return unique


def _several(source: Argument | tuple[Argument, ...]) -> tuple[Argument, ...]:
    return source if isinstance(source, tuple) else (source,)


def _fields(kind: ArgumentKind, names: Sequence[str], bundle: Any) -> tuple[Argument, ...]:
    return tuple(Argument(kind, name, field) for name, field in zip(names, bundle.fields, strict=True))


def _results(value: Any) -> tuple[Any, ...]:
    """Types of what a call writes into memory of its own."""
    kinds = list(value.ty.fields) if isinstance(value.ty, relax.TupleType) else [value.ty]
    return tuple(kind for kind, index in zip(kinds, _in_place(value, len(kinds)), strict=True) if index < 0)


def _results_of(call: Call, value: Any) -> Argument | tuple[Argument, ...]:
    """Where the value of a call comes from, field by field: from the call, or from the argument that it changed."""
    count = len(value.ty.fields) if isinstance(value.ty, relax.TupleType) else 1
    parts = itertools.count()
    fields = tuple(
        call.arguments[index] if index >= 0 else Argument("node", call.name, call.results[part := next(parts)], part)
        for index in _in_place(value, count)
    )
    return fields if isinstance(value.ty, relax.TupleType) else fields[0]


def _in_place(value: Any, results: int) -> list[int]:
    """By result: the argument that is changed to become it, or -1."""
    if operator_name(value) == "relax.call_tir_inplace":
        return [int(index) for index in value.attrs.inplace_indices]
    return [-1] * results
