"""Decides whether a stage is right: by its logits, and by what its operators make of right inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping

from vamc_py.check.compare import difference
from vamc_py.check.interpreter import OperatorError
from vamc_py.check.locate import first_difference, first_lossy_difference, leeways
from vamc_py.check.results import BUILD, IMPORT, CheckResult, Finding, StageResult
from vamc_py.check.scenario import Row
from vamc_py.check.stages import StageRun, StageRunner
from vamc_py.check.values import Array
from vamc_py.pipeline.base import Context, Pass
from vamc_py.pipeline.program import STEP, Program
from vamc_py.pipeline.runner import PassRun

EXACT = Pass.tolerance  # of a pass that changes no number but by the order of sums
# What the errors of the single operators of a pass, each within its tolerance, may add up to in the logits.
ADDED_UP = 5.0
# Caches of 16 bits round keys and values. A sum in another order may round one of them the other way, and attention
# with large scores makes more of that than the tolerance of a pass that changes no number.
CACHE_ROUNDING = 1e-3


class Judge:
    """Compares each stage with the torch model and with the stage before it, and fills ``result``."""

    def __init__(
        self, runner: StageRunner, reference: Mapping[Row, Array], result: CheckResult, context: Context
    ) -> None:
        self.runner = runner
        self._context = context
        self.last: StageRun  # of the last stage that was right
        self._reference = reference
        self._result = result

    def imported(self, program: Program) -> bool:
        """Runs the module before any pass. True where it is not what torch computes."""
        self.last = self.runner.run(program)
        return self._wrong_by_logits(IMPORT, self.last, self._reference)

    def is_wrong(self, run: PassRun) -> bool:
        """Runs the module that a pass left. True where it is wrong."""
        planned, program = run.planned, run.after
        tolerance = planned.one.tolerance_for(self._context)
        label, allowed = planned.label, self.allowed(tolerance, run)
        if not run.changed:
            self._add(StageResult(label, False, difference(self.last.logits, self._reference), 0.0, allowed))
            return False
        try:
            after = self.runner.run(program)
        except OperatorError as error:
            reason = str(error)
            self._find(Finding(label, planned.origin, program.name, math.nan, allowed, tolerance, reason=reason))
            return True
        added = difference(after.logits, self.last.logits).relative
        place, worst, limit = None, None, tolerance
        if tolerance > EXACT:
            place, worst, limit = first_lossy_difference(self.runner, self.last, after, tolerance)
        elif not added <= allowed:
            place = first_difference(self.runner, self.last, after, tolerance)
        if tolerance > EXACT and place is None and not added <= allowed:
            place = first_difference(self.runner, self.last, after, tolerance)
        self._add(StageResult(label, True, difference(after.logits, self._reference), added, allowed, worst, limit))
        if place is None and added <= allowed:
            self.last = after
            return False
        at_most = tolerance if place is None else place.allowed
        self._find(Finding(label, planned.origin, program.name, added, allowed, at_most, place))
        return True

    def built(self, program: Program) -> bool:
        """Runs the module as TVM builds it. True where that is wrong."""
        return self._wrong_by_logits(BUILD, self.runner.run_built(program), self.last.logits)

    def allowed(self, tolerance: float, run: PassRun) -> float:
        """By how much a pass of this tolerance may move the logits."""
        program = run.after
        most = max([tolerance, *leeways(run.before, program).values()])
        allowed = most if most <= EXACT else ADDED_UP * most
        rounded = program.name == STEP and self.runner.target.cache_dtype != "float32"
        return max(allowed, CACHE_ROUNDING) if rounded else allowed

    def _wrong_by_logits(self, label: str, run: StageRun, before: Mapping[Row, Array]) -> bool:
        added = difference(run.logits, before).relative
        self._add(StageResult(label, True, difference(run.logits, self._reference), added, EXACT))
        if not added <= EXACT:
            self._find(Finding(label, "", run.program.name, added, EXACT, EXACT))
        return self._result.finding is not None

    def _add(self, stage: StageResult) -> None:
        self._result.stages.append(stage)

    def _find(self, finding: Finding) -> None:
        self._result.finding = finding
