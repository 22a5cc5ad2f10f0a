"""Decides whether a stage is right: by its logits, and by what its operators make of right inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping

from vamc_py.check.compare import difference
from vamc_py.check.interpreter import OperatorError
from vamc_py.check.locate import first_difference, first_lossy_difference
from vamc_py.check.results import BUILD, IMPORT, CheckResult, Finding, StageResult
from vamc_py.check.scenario import Row
from vamc_py.check.stages import StageRun, StageRunner
from vamc_py.check.values import Array
from vamc_py.pipeline.base import Pass
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

    def __init__(self, runner: StageRunner, reference: Mapping[Row, Array], result: CheckResult) -> None:
        self.runner = runner
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
        label, tolerance, allowed = planned.label, planned.one.tolerance, self.allowed(planned.one, program)
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
        place, worst = None, None
        if tolerance > EXACT:
            place, worst = first_lossy_difference(self.runner, self.last, after, tolerance)
        elif not added <= allowed:
            place = first_difference(self.runner, self.last, after, tolerance)
        if tolerance > EXACT and place is None and not added <= allowed:
            place = first_difference(self.runner, self.last, after, tolerance)
        self._add(StageResult(label, True, difference(after.logits, self._reference), added, allowed, worst, tolerance))
        if place is None and added <= allowed:
            self.last = after
            return False
        self._find(Finding(label, planned.origin, program.name, added, allowed, tolerance, place))
        return True

    def built(self, program: Program) -> bool:
        """Runs the module as TVM builds it. True where that is wrong."""
        return self._wrong_by_logits(BUILD, self.runner.run_built(program), self.last.logits)

    def allowed(self, one: Pass, program: Program) -> float:
        """By how much a pass that left this program may move the logits."""
        allowed = one.tolerance if one.tolerance <= EXACT else ADDED_UP * one.tolerance
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
