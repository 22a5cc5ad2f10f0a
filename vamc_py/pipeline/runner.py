"""Runs a list of passes, after checking that it can be run, and tells observers what each one did."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property

from tvm_ffi import structural_equal

from vamc_py.pipeline.base import Context, Pass
from vamc_py.pipeline.pipeline_check import check_pipeline
from vamc_py.pipeline.program import Program


@dataclass(frozen=True)
class Planned:
    """A pass of a pipeline."""

    one: Pass
    label: str  # unique in the pipeline: the pass's name, or "simplify#2" for the second run of a pass
    origin: str  # what brought the pass: "vamc-py 0.1.0", another package and its version, or a file
    place: str | None = None  # where the YAML asks for it, or for its options; None: the default list has it

    @property
    def command(self) -> str:
        """How ``vamc-py ir apply`` is told to run it: the name or the file of the pass, and its options."""
        reference = self.origin if ".py:" in self.origin else self.one.name
        changed = (f for f in fields(self.one) if getattr(self.one, f.name) != f.default)  # type: ignore[arg-type]
        return " ".join([reference, *(f"--option {f.name}={json.dumps(getattr(self.one, f.name))}" for f in changed)])


@dataclass(frozen=True)
class PassRun:
    """What one pass did."""

    index: int  # from 1, in the pipeline
    planned: Planned
    before: Program
    after: Program
    seconds: float

    @cached_property
    def changed(self) -> bool:
        """Whether the module or the parameter plan is another one than before."""
        same_plan = dict(self.before.plan.recipes) == dict(self.after.plan.recipes)
        return not (same_plan and structural_equal(self.before.module, self.after.module))


class Observer:
    """Hears of a run of passes. The methods do nothing; a subclass overrides those it needs."""

    def begin(self, program: Program, context: Context) -> None:
        """The program as it was imported, before the first pass."""

    def before(self, index: int, planned: Planned, program: Program) -> None:
        """A pass is about to run."""

    def after(self, run: PassRun) -> None:
        """A pass has run."""


def planned(passes: Sequence[Pass], origin: str = "vamc-py") -> tuple[Planned, ...]:
    """The passes with their labels, all of one origin."""
    names = [one.name for one in passes]
    return tuple(Planned(one, label, origin) for one, label in zip(passes, labels(names), strict=True))


def labels(names: Sequence[str]) -> list[str]:
    """A unique label for each of these names of passes: the name, or ``name#1``, ``name#2`` where it stands often."""
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(f"{name}#{seen[name]}" if names.count(name) > 1 else name)
    return result


def run_pass(index: int, step: Planned, program: Program, context: Context) -> PassRun:
    """Runs one pass of a pipeline and times it."""
    started = time.perf_counter()
    after = step.one.apply(program, context)
    return PassRun(index, step, program, after, time.perf_counter() - started)


def run_passes(
    program: Program,
    pipeline: Sequence[Planned],
    context: Context,
    observers: Sequence[Observer] = (),
    *,
    until: str | None = None,
) -> Program:
    """The program after all passes, or after the one with the label ``until``.

    The whole pipeline is checked before the first of them runs.
    """
    check_pipeline([step.one for step in pipeline], context.target.kind)
    for observer in observers:
        observer.begin(program, context)
    for index, step in enumerate(pipeline, 1):
        for observer in observers:
            observer.before(index, step, program)
        run = run_pass(index, step, program, context)
        for observer in observers:
            observer.after(run)
        program = run.after
        if step.label == until:
            break
    return program
