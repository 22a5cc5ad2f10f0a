"""Runs the module as a pass left it over the steps of a scenario, with weights made by the plan of that stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import relax

from vamc_py.check.arguments import Arguments
from vamc_py.check.interpreter import Interpreter
from vamc_py.check.scenario import Call, Row, Scenario
from vamc_py.check.values import Array, Result, Value, as_argument, from_tvm
from vamc_py.check.weights import Read, Weights
from vamc_py.pipeline.build import build_module
from vamc_py.pipeline.graph import Graph, variables
from vamc_py.pipeline.program import MAIN, ONE_SLOT_ATTRIBUTE, Program, attribute, layout
from vamc_py.target.description import TargetDescription

Values = dict[str, Array]  # by name of the binding
Force = Callable[[Call, str, Value], Value]  # step, binding, its value -> what the rest of the function shall read


@dataclass
class StageRun:
    """What a module computed."""

    program: Program
    logits: dict[Row, Array] = field(default_factory=dict)  # f32 [vocabulary]
    steps: dict[Call, Values] = field(default_factory=dict)  # of bindings that depend on the inputs, in order


class StageRunner:
    """Runs the programs of one pipeline, in its order, over one scenario."""

    def __init__(self, read: Read, scenario: Scenario, target: TargetDescription, interpreter: Interpreter) -> None:
        self.scenario = scenario
        self.target = target
        self.interpreter = interpreter
        self.weights = Weights(read)
        self.members: dict[str, list[str]] = {}  # names of what the tuples of bundle-parameters hold

    def run(self, program: Program, force: Force | None = None, calls: Sequence[Call] | None = None) -> StageRun:
        """Runs every step of the scenario, or these; ``force`` may replace values on the way."""
        arguments = self._arguments(program)
        followed = followed_bindings(program.function)
        done = StageRun(program)
        for call in self.calls(program) if calls is None else calls:
            values = done.steps.setdefault(call, {})

            def each(name: str, result: Result, call: Call = call, values: Values = values) -> Result:
                if name not in followed or isinstance(result, tuple) or arguments.is_cache(result):
                    return result
                values[name] = result.array
                return result if force is None else force(call, name, result)

            result = self.interpreter.run(program.module, program.function, arguments.of(call), each)
            done.logits.update(arguments.logits(call, result))
        return done

    def run_built(self, program: Program) -> StageRun:
        """The same steps by the module as a compile builds it; no values but the logits."""
        executable = build_module(program, self.target)
        function = relax.VirtualMachine(executable, tvm.cpu())[program.name]
        arguments = self._arguments(program)
        done = StageRun(program)
        for call in self.calls(program):
            result = from_tvm(function(*(as_argument(argument) for argument in arguments.of(call))))
            done.logits.update(arguments.logits(call, result))
        return done

    def arguments_of(self, program: Program, call: Call) -> dict[str, Result]:
        """The arguments of one step by parameter, caches and past as the steps before it left them."""
        arguments = self._arguments(program)
        for one in self.calls(program):
            given = arguments.of(one)
            if one == call:
                return {str(p.name): value for p, value in zip(program.function.params, given, strict=True)}
            arguments.logits(one, self.interpreter.run(program.module, program.function, given))
        raise KeyError(f"{program.name} does not run {call} as a step")

    def calls(self, program: Program) -> tuple[Call, ...]:
        """The steps of the scenario as the program can take them."""
        one_at_a_time = program.name == MAIN or attribute(program.function, ONE_SLOT_ATTRIBUTE, 0)
        return self.scenario.separately() if one_at_a_time else self.scenario.calls

    def _arguments(self, program: Program) -> Arguments:
        if not any(isinstance(parameter.ty, relax.TupleType) for parameter in program.function.params):
            _, caches, parameters = layout(program.function)
            # bundle-parameters keeps their order in its tuples.
            self.members = {"caches": [str(c.name) for c in caches], "params": [str(w.name) for w in parameters]}
        weights = self.weights.make(program.plan, self.members["params"])
        return Arguments(program, self.scenario, weights, self.members)


def followed_bindings(function: Any) -> set[str]:
    """The bindings that depend on the inputs or the caches, not on weights alone, by name."""
    inputs, caches, _ = layout(function)
    graph = Graph(function)
    followed = {*inputs, *caches}
    for var, value in graph.values.items():
        if any(read in followed for read in variables(value)):
            followed.add(var)
    return {str(var.name) for var in followed}
