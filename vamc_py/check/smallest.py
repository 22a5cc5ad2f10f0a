"""Cuts a module down to the few bindings on which a pass still goes wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import tvm
from tvm import ir, relax

from vamc_py.check.case import Case
from vamc_py.check.check import Faulty
from vamc_py.check.interpreter import OperatorError
from vamc_py.check.locate import leeways
from vamc_py.check.stages import Values
from vamc_py.check.values import Array, Value
from vamc_py.pipeline.base import Context, Pass
from vamc_py.pipeline.graph import Graph, variables
from vamc_py.pipeline.program import CACHES_ATTRIBUTE, INPUTS_ATTRIBUTE, Program, layout


@dataclass(frozen=True)
class Smallest:
    """The smallest case that was found."""

    case: Case
    errors: dict[str, float]  # by result; empty where the module does not run after the pass
    operators: int  # in the function before the pass
    of: int  # in the function that it was cut from


def smallest_case(faulty: Faulty, context: Context) -> Smallest:
    """A case on which the pass is wrong, made as small as taking away bindings, results and steps can make it.

    Passes that change what the function takes need it whole: for them only steps are taken away.
    """
    if _same_arguments(faulty.run.before, faulty.run.after):
        place = faulty.finding.place
        for shown in ([place.shown] if place is not None else []) + [""]:
            for call in faulty.before.steps:
                search = _Search(faulty, context, call, shown)
                names = [str(var.name) for var in search.graph.values]
                if search.errors(names) is not None:
                    return search.shrunk(names)
    return _fewest_steps(faulty, context)


class _Search:
    """Tries cuts of the function before the pass, on the values of one step.

    ``shown`` is the binding that has to be wrong; "" for any result.
    """

    def __init__(self, faulty: Faulty, context: Context, call: Any, shown: str) -> None:
        self.shown = shown
        self.one: Pass = faulty.run.planned.one
        self.before = faulty.run.before
        self.graph = Graph(self.before.function)
        self._context = context
        self._runner = faulty.runner
        self._does_not_run = bool(faulty.finding.reason)
        self._values: Values = faulty.before.steps[call]
        inputs, caches, _ = layout(self.before.function)
        wanted = {str(parameter.name) for parameter in (*inputs, *caches)}
        self._arguments: dict[str, Array] = {
            name: value.array.copy()
            for name, value in faulty.runner.arguments_of(self.before, call).items()
            if name in wanted and isinstance(value, Value)
        }

    def shrunk(self, names: list[str]) -> Smallest:
        """The case with as few of these bindings as possible, from which all of them show the fault."""
        size = len(names)
        while size > 1:
            size = -(-size // 2)
            for part in (slice(size, None), slice(None, -size)):
                while len(names) > size and self.errors(names[part]) is not None:
                    names = names[part]
        for name in reversed(names):
            fewer = [other for other in names if other != name]
            if fewer and self.errors(fewer) is not None:
                names = fewer
        errors = self.errors(names)
        assert errors is not None
        results = list(errors)
        for name in reversed(results):
            fewer = [other for other in results if other != name]
            if fewer and self.errors(names, fewer) is not None:
                results = fewer
        case = self._case(names, results or None)
        size = operator_count(case.program)
        return Smallest(case, self.errors(names, results or None) or {}, size, operator_count(self.before))

    def errors(self, names: Sequence[str], results: Sequence[str] | None = None) -> dict[str, float] | None:
        """The errors of the results of a function of these bindings, where the pass is wrong on it; else None."""
        # A pass that meets a function which it was not made for may raise anything; and not every cut is a function.
        try:
            case = self._case(names, results)
            after = self.one.apply(case.program, self._context)
        except Exception:
            return None
        try:
            errors = case.errors(after, self._runner.interpreter)
        except OperatorError:
            return {} if self._does_not_run and self._runs(case) else None
        except Exception:
            return None
        tolerance, more = self.one.tolerance_for(self._context), leeways(case.program, after)
        judged = [self.shown] if self.shown else list(errors)
        wrong = (not errors.get(name, 0.0) <= max(tolerance, more.get(name, 0.0)) for name in judged)
        return errors if any(wrong) else None

    def _runs(self, case: Case) -> bool:
        try:
            case.errors(case.program, self._runner.interpreter)
        except OperatorError:
            return False
        return True

    def _case(self, names: Sequence[str], results: Sequence[str] | None) -> Case:
        kept = {var for var in self.graph.values if str(var.name) in set(names)}
        outputs = [
            var
            for var in self.graph.values
            if (var in kept and self._leaves(var, kept) if results is None else str(var.name) in results)
        ]
        given = self._given(outputs, kept)
        inputs, caches, weights = layout(self.before.function)
        read = self._read(outputs, given)
        inputs, caches, weights = ([one for one in part if one in read] for part in (inputs, caches, weights))
        parameters = {var: relax.Var(str(var.name), var.ty) for var in given}
        function = self.graph.rebuild(
            parameters=[*inputs, *parameters.values(), *caches, *weights],
            substitute=parameters,
            outputs=outputs,
            attributes={
                **dict(self.before.function.attrs or {}),
                INPUTS_ATTRIBUTE: len(inputs) + len(given),
                CACHES_ATTRIBUTE: len(caches),
            },
        )
        arguments = {str(var.name): self._values[str(var.name)] for var in given}
        arguments.update({str(var.name): self._arguments[str(var.name)] for var in (*inputs, *caches)})
        plan = self.before.plan.only([str(weight.name) for weight in weights])
        program = _only_used(self.before.with_function(function, plan=plan))
        return Case(program, self._context, self._runner.weights, arguments)

    def _leaves(self, var: Any, kept: set[Any]) -> bool:
        """Whether something outside reads the variable, which has a value of its own."""
        if str(var.name) not in self._values:
            return False
        if str(var.name) == self.shown:
            return True
        return self.graph.is_result(var) or any(user not in kept for user in self.graph.users[var])

    def _given(self, outputs: Sequence[Any], kept: set[Any]) -> list[Any]:
        """What the outputs are computed from that is not to be computed: its value is known."""
        given: dict[Any, None] = {}
        seen = set(outputs)
        stack = list(outputs)
        while stack:
            for var in variables(self.graph.values[stack.pop()]):
                if var in seen or var not in self.graph.values:
                    continue
                seen.add(var)
                if var not in kept and str(var.name) in self._values:
                    given[var] = None
                else:
                    stack.append(var)
        return list(given)

    def _read(self, outputs: Sequence[Any], given: Sequence[Any]) -> set[Any]:
        """All variables that the outputs are computed from, up to those that are given."""
        read: set[Any] = set()
        stack = list(outputs)
        while stack:
            for var in variables(self.graph.values[stack.pop()]):
                if var not in read and var not in given:
                    read.add(var)
                    if var in self.graph.values:
                        stack.append(var)
        return read


def operator_count(program: Program) -> int:
    """The calls in the program's function."""
    return sum(isinstance(value, relax.Call) for value in Graph(program.function).values.values())


def _only_used(program: Program) -> Program:
    """The program without kernels that the function does not call."""
    used: list[Any] = []

    def visit(expression: Any) -> None:
        if isinstance(expression, relax.Call):
            used.extend(a for a in (expression.op, *expression.args) if isinstance(a, ir.GlobalVar))

    relax.analysis.post_order_visit(program.function.body, visit)
    functions = {
        symbol: function
        for symbol, function in program.module.functions_items()
        if symbol in used or symbol.name_hint == program.name
    }
    return replace(program, module=tvm.IRModule(functions, attrs=program.module.attrs))


def _same_arguments(before: Program, after: Program) -> bool:
    """Whether both functions can be called with the same inputs and caches."""
    if before.name != after.name or any(isinstance(p.ty, relax.TupleType) for p in after.function.params):
        return False
    names = [[str(p.name) for part in layout(one.function)[:2] for p in part] for one in (before, after)]
    return names[0] == names[1]


def _fewest_steps(faulty: Faulty, context: Context) -> Smallest:
    """The whole function with as few steps of the scenario as show the fault."""
    scenario = faulty.runner.scenario
    size = operator_count(faulty.run.before)
    for count in range(1, len(scenario.calls) + 1):
        fewer = replace(scenario, calls=scenario.calls[:count])
        case = Case(faulty.run.before, context, faulty.runner.weights, scenario=fewer)
        try:
            errors = case.errors(faulty.run.after, faulty.runner.interpreter)
        except OperatorError:
            return Smallest(case, {}, size, size)
        if any(not error <= faulty.finding.allowed for error in errors.values()):
            break
    return Smallest(case, errors, size, size)
