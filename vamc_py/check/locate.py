"""Finds the first operator of a function that a pass got wrong, by the values of the function before the pass.

The function after the pass runs again, and wherever it has a binding that the function before has too, the rest of it
reads the former value: so an operator is judged by what it makes of right inputs, and errors do not add up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tvm import relax

from vamc_py.check.compare import relative_error, same_elements
from vamc_py.check.scenario import Call
from vamc_py.check.stages import StageRun, StageRunner, Values
from vamc_py.check.values import Array, Value
from vamc_py.dialect import operators
from vamc_py.inspect.bindings import View
from vamc_py.inspect.layers import Members, layer_of_bindings
from vamc_py.pipeline.graph import Graph, operator_name, variables
from vamc_py.pipeline.program import OPERATOR_ATTRIBUTE, Program

# What only shows a value in another form; the operator at fault is the one that made the value.
_VIEWS = {"relax.reshape", "relax.permute_dims", "relax.expand_dims", "relax.squeeze", "relax.split"}
_ATTENTIONS = {"attention", "cached_attention", "qkv_attention"}
_KERNEL_CALLS = {"call_tir", "call_tir_inplace"}


@dataclass(frozen=True)
class Place:
    """An operator that gives something else than before the pass."""

    binding: str  # its name
    text: str  # the binding on one line
    operator: str  # "vamc.linear", "kernel linear_int8_3072x1024"
    layer: int | None
    error: float  # relative, of ``shown``
    allowed: float  # of ``error``
    shown: str  # the binding that has a value to compare with: itself, or a view of it
    before: str  # what had this value before the pass, on one line; empty where nothing had
    call: Call  # the step in which it shows

    @property
    def where(self) -> str:
        """In words."""
        return "outside of the layers" if self.layer is None else f"layer {self.layer}"


@dataclass
class _Seen:
    """What a run with former values found, by step."""

    agreeing: dict[Call, set[str]] = field(default_factory=dict)
    errors: list[_Error] = field(default_factory=list)  # of every binding that could be compared


@dataclass(frozen=True)
class _Error:
    """Of one binding in one step."""

    call: Call
    name: str
    relative: float
    allowed: float

    @property
    def is_fault(self) -> bool:
        return self.relative > self.allowed


def first_difference(runner: StageRunner, before: StageRun, after: StageRun, tolerance: float) -> Place | None:
    """The first operator of ``after`` that differs from ``before`` though what it reads agrees; None where none does.

    For results that are known to differ: where no binding can be compared, an operator is found by what agrees.
    """
    seen = _compare(runner, before, after, tolerance)
    differing = (error for error in seen.errors if error.is_fault)
    found = next(differing, None) or _first_without_match(before, after, tolerance)
    return None if found is None else _describe(before, after, found, seen.agreeing[found.call], runner.members)


def first_lossy_difference(
    runner: StageRunner, before: StageRun, after: StageRun, tolerance: float
) -> tuple[Place | None, float, float]:
    """The same whether the results differ or not, and the error of one operator that comes closest to what it may be,
    with that: only of bindings that compute the same operator before and after."""
    seen = _compare(runner, before, after, tolerance)
    kinds = [_kinds(program) for program in (before.program, after.program)]
    same = [one for one in seen.errors if kinds[0].get(one.name) == kinds[1].get(one.name) != ""]
    fault = next((one for one in same if one.is_fault), None)
    worst = max(same, key=lambda one: one.relative / one.allowed, default=None)
    if worst is None:
        return None, 0.0, tolerance
    place = None if fault is None else _describe(before, after, fault, seen.agreeing[fault.call], runner.members)
    return place, worst.relative, worst.allowed


def leeways(before: Program, after: Program) -> dict[str, float]:
    """What operators leave to their kernels, by the name of each binding that was the operator before and is a kernel
    of it now."""
    operators_before = {str(var.name): value for var, value in Graph(before.function).values.items()}
    graph = Graph(after.function)
    found = {}
    for var, value in graph.values.items():
        operator = operators().get(f"relax.vamc.{_served(after, _whole(graph, value))}")
        call = operators_before.get(str(var.name))
        if operator is not None and operator_name(call) == operator.full_name:
            found[str(var.name)] = operator.leeway(call)
    return found


def _compare(runner: StageRunner, before: StageRun, after: StageRun, tolerance: float) -> _Seen:
    seen = _Seen()
    more = leeways(before.program, after.program)
    known = {call: former_values(before, call) for call in after.steps}

    def force(call: Call, name: str, value: Value) -> Value:
        agreeing = seen.agreeing.setdefault(call, set())
        former = known[call].get(name)
        if former is None or former.size != value.array.size:
            if _matches(value.array, known[call], tolerance):
                agreeing.add(name)
            return value
        error = _Error(call, name, relative_error(value.array, former), max(tolerance, more.get(name, 0.0)))
        if error.is_fault and _is_renamed(value.array, known[call], after.steps[call], tolerance):
            agreeing.add(name)
            return value
        if not error.is_fault:
            agreeing.add(name)
        seen.errors.append(error)
        return Value(former.reshape(value.shape).astype(value.array.dtype))

    runner.run(after.program, force, tuple(after.steps))
    return seen


def former_values(before: StageRun, call: Call) -> Values:
    """The values before the pass for a step; of sequences that ran in steps of their own then, put together."""
    if call in before.steps:
        return before.steps[call]
    if not all((run,) in before.steps for run in call):
        return {}
    parts = [before.steps[run,] for run in call]
    joined = {}
    for name, first in parts[0].items():
        arrays = [first, *(part[name] for part in parts[1:] if name in part)]
        axis = _token_axis(arrays) if len(arrays) == len(parts) else None
        if axis is not None:
            joined[name] = np.concatenate(arrays, axis=axis)
    return joined


def _token_axis(arrays: Sequence[Array]) -> int | None:
    """The one axis along which the arrays have different sizes."""
    if len({array.ndim for array in arrays}) != 1:
        return None
    different = [axis for axis in range(arrays[0].ndim) if len({array.shape[axis] for array in arrays}) > 1]
    return different[0] if len(different) == 1 else None


def _matches(value: Array, former: Values, tolerance: float) -> list[str]:
    """The bindings that had the value before."""
    same_size = {name: other for name, other in former.items() if other.size == value.size}
    return [name for name, other in same_size.items() if same_elements(value, other, tolerance)]


def _is_renamed(value: Array, former: Values, values: Values, tolerance: float) -> bool:
    """Whether a value that differs from its namesake is another one of before, under a name that became free.

    Where that other one has its own name still, with yet another value, the two were mixed up.
    """
    for name in _matches(value, former, tolerance):
        now = values.get(name)
        if now is None or now.size != former[name].size or same_elements(now, former[name], tolerance):
            return True
    return False


def _first_without_match(before: StageRun, after: StageRun, tolerance: float) -> _Error | None:
    """The first binding that nothing before has the value of, and from which no value is computed that agrees."""
    graph = Graph(after.program.function)
    for call, values in after.steps.items():
        known = former_values(before, call)
        agreeing = {name for name, value in values.items() if _matches(value, known, tolerance)}
        leading = _leading_to(graph, agreeing)
        for name in values:
            if name not in leading:
                return _Error(call, name, float("nan"), tolerance)
    return None


def _leading_to(graph: Graph, names: set[str]) -> set[str]:
    """These bindings and all that they are computed from."""
    wanted = [var for var in graph.values if str(var.name) in names]
    found = set(wanted)
    while wanted:
        for read in variables(graph.values[wanted.pop()]):
            if read in graph.values and read not in found:
                found.add(read)
                wanted.append(read)
    return {str(var.name) for var in found}


def _describe(before: StageRun, after: StageRun, found: _Error, agreeing: set[str], members: Members) -> Place:
    function = after.program.function
    binding = _maker(Graph(function), found.name, agreeing)
    view, former = View(function), View(before.program.function)
    statement = next((one for _, one in view.numbered() if one.name == binding), None)  # none for a renamed parameter
    former_lines = {statement.name: former.line(statement) for _, statement in former.numbered()}
    return Place(
        binding=binding,
        text=binding if statement is None else view.line(statement),
        operator="" if statement is None else statement.operator,
        layer=layer_of_bindings(function, members).get(binding),
        error=found.relative,
        allowed=found.allowed,
        shown=found.name,
        before=former_lines.get(found.name, ""),
        call=found.call,
    )


def _maker(graph: Graph, name: str, agreeing: set[str]) -> str:
    """The binding that made the value, behind renamings and views of values that have nothing to be compared with."""
    var = next(var for var in graph.values if str(var.name) == name)
    while True:
        value = graph.values[var]
        source = value.tuple_value if isinstance(value, relax.TupleGetItem) else None
        if operator_name(value) in _VIEWS:
            source = value.args[0]
        if isinstance(value, relax.Var):
            source = value
        if not isinstance(source, relax.Var) or source not in graph.values or str(source.name) in agreeing:
            return str(var.name)
        var = source


def _kinds(program: Program) -> Mapping[str, str]:
    """What each binding computes: "linear", be it by an operator of the dialect or a kernel; "" where nothing is."""
    graph = Graph(program.function)

    def kind(value: Any) -> str:
        call = _whole(graph, value)
        name = operator_name(call).removeprefix("relax.")
        name = (_served(program, call) if name in _KERNEL_CALLS else name).removeprefix("vamc.")
        return "attention" if name in _ATTENTIONS else name

    return {str(var.name): kind(value) for var, value in graph.values.items()}


def _whole(graph: Graph, value: Any) -> Any:
    """The call that gives the tuple which the value is an item of; another value as it is."""
    while isinstance(value, relax.TupleGetItem):
        value = graph.value(value.tuple_value)
    return value


def _served(program: Program, call: Any) -> str:
    """The operator that the kernel of a call serves; "" where it is none of the schedules', or the call none."""
    if operator_name(call).removeprefix("relax.") not in _KERNEL_CALLS:
        return ""
    attributes = program.module[call.args[0]].attrs or {}
    return str(attributes[OPERATOR_ATTRIBUTE]) if OPERATOR_ATTRIBUTE in attributes else ""
