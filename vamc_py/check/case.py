"""A module before a pass and what it takes to run it: enough to see whether the pass makes another function of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vamc_py.check.compare import difference, relative_error
from vamc_py.check.interpreter import Interpreter
from vamc_py.check.scenario import Scenario
from vamc_py.check.stages import StageRunner
from vamc_py.check.values import Array, Value, tensors_of
from vamc_py.check.weights import Weights
from vamc_py.pipeline.base import Context
from vamc_py.pipeline.graph import Graph
from vamc_py.pipeline.program import Program


@dataclass(frozen=True)
class Case:
    """With ``inputs``, one call of the function, before and after the pass with the same arguments. With ``scenario``,
    whole sequences: for passes that change what the function takes, or that are wrong only when sequences are mixed."""

    program: Program  # before the pass
    context: Context
    weights: Weights
    inputs: Mapping[str, Array] | None = None  # inputs and caches, by parameter
    scenario: Scenario | None = None

    def errors(self, after: Program, interpreter: Interpreter) -> dict[str, float]:
        """The relative error of each result after the pass, by name. OperatorError for a module that does not run."""
        if self.scenario is not None:
            runner = StageRunner(self.weights.read, self.scenario, self.context.target, interpreter)
            before = runner.run(self.program).logits
            return {"logits": difference(runner.run(after).logits, before).relative}
        wanted, got = (self._results(program, interpreter) for program in (self.program, after))
        if len(wanted) != len(got):
            raise ValueError(f"the function gives {len(got)} results instead of {len(wanted)}")
        names = [str(output.name) for output in Graph(self.program.function).outputs()]
        return {name: relative_error(b, a) for name, a, b in zip(names, wanted, got, strict=True)}

    def _results(self, program: Program, interpreter: Interpreter) -> list[Array]:
        inputs = self.inputs or {}
        names = [str(parameter.name) for parameter in program.function.params]
        weights = self.weights.make(program.plan, [name for name in names if name not in inputs])
        arguments = [Value(inputs[name].copy()) if name in inputs else weights[name] for name in names]
        result = interpreter.run(program.module, program.function, arguments)
        return [value.array for value in tensors_of(result)]
