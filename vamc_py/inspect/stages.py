"""Stages of dumps as the command line names them, ``PATH:STAGE``, and what is between two of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vamc_py.artifact.verify import VACC
from vamc_py.errors import UserError
from vamc_py.inspect.bindings import Members
from vamc_py.inspect.diff import diff_modules
from vamc_py.inspect.dump import Dump, StageRecord, open_dump
from vamc_py.inspect.layers import tuple_fields
from vamc_py.inspect.plan_diff import diff_plans
from vamc_py.inspect.report_model import FunctionChange
from vamc_py.passes.lower_reference import LowerReference
from vamc_py.pipeline.build import build_module
from vamc_py.pipeline.fault_finder import explain_build
from vamc_py.pipeline.program import Program
from vamc_py.pipeline.registry import find_pass, make_pass


@dataclass(frozen=True)
class StageOf:
    """One stage of a dump."""

    dump: Dump
    record: StageRecord

    @property
    def program(self) -> Program:
        """The program after the stage."""
        return self.dump.program(self.record)


def open_stage(text: str) -> StageOf:
    """The stage that ``PATH`` (its last one) or ``PATH:STAGE`` names. UserError for what is not there."""
    path, stage = Path(text), "last"
    if not path.exists() and ":" in text:
        before, _, stage = text.rpartition(":")
        path = Path(before)
    dump = open_dump(path)
    return StageOf(dump, dump.find(stage))


def changes_of_stage(stage: StageOf) -> tuple[FunctionChange, ...]:
    """What the pass of a stage changed, the parameter plan included. UserError for the import."""
    if stage.record.index == 0:
        raise UserError(
            f"{stage.dump.folder}: nothing stands before {stage.record.label}; name a later stage, or two stages"
        )
    return changes_of_record(stage.dump, stage.record)


def changes_of_record(dump: Dump, after: StageRecord) -> tuple[FunctionChange, ...]:
    """What the pass of a stage, which is not the import, changed. Files that the stages share are not read."""
    before = dump.index.stages[after.index - 1]
    modules = () if before.module == after.module else diff_modules(dump.module(before), dump.module(after))
    plan = None if before.plan == after.plan else diff_plans(dump.plan(before), dump.plan(after))
    return (*modules, *(() if plan is None else (plan,)))


def changes_between(before: StageOf, after: StageOf) -> tuple[FunctionChange, ...]:
    """The difference of two stages, which may be of two dumps. Caches and weights are known by name in both, also
    where bundle-parameters made tuples of them."""
    old, new = before.program, after.program
    return changes_of_programs(old, new, (bundled_names(old), bundled_names(new)))


def changes_of_pass(
    stage: StageOf, reference: str, options: Mapping[str, object]
) -> tuple[tuple[FunctionChange, ...], tuple[str, ...]]:
    """What one pass, named or ``file.py:Class``, changes when it runs on the program after a stage, and what it notes.

    UserError when there is no such pass, when its options are wrong, and when it does not serve the dump's target.
    """
    kind = find_pass(reference).kind
    one = make_pass(kind, options)
    context = stage.dump.context()
    if context.target.kind not in kind.targets:
        raise UserError(
            f"the pass {kind.name} does not serve the target {context.target.kind} of {stage.dump.folder}, only "
            f"{', '.join(kind.targets)}"
        )
    before = stage.program
    after = one.apply(before, context)
    return changes_of_programs(before, after), tuple(note for note in after.notes if note not in before.notes)


def build_stage(stage: StageOf) -> None:
    """Builds the module after a stage for the target of its dump. What fails says at which operator or kernel.

    UserError for a dump of vacc, whose steps become programs.
    """
    context = stage.dump.context()
    if context.target.kind == VACC:
        raise UserError(
            f"{stage.dump.folder}: of the vacc target, whose steps become programs and no module; `vamc-py simulate "
            "CONFIG` writes those in memory"
        )
    program = LowerReference().apply(stage.program, context)
    try:
        build_module(program, context.target)
    except Exception as error:
        explain_build(error, program, context.target)
        raise


def changes_of_programs(
    before: Program, after: Program, members: tuple[Members, Members] | None = None
) -> tuple[FunctionChange, ...]:
    """The difference of two programs: their modules and their parameter plans."""
    plan = diff_plans(before.plan, after.plan)
    return (*diff_modules(before.module, after.module, members), *(() if plan is None else (plan,)))


def bundled_names(program: Program) -> Members:
    """The names that the fields of tuple parameters had before bundle-parameters: of the weights as the plan lists
    them, of the caches as kv-cache-layout names them. Empty where there are no such tuples."""
    caches, params = (tuple_fields(program.function).get(name, []) for name in ("caches", "params"))
    weights = list(program.plan)
    if not params or len(weights) != len(params):
        return {}
    return {"caches": [f"{'kv'[i % 2]}_cache_{i // 2}" for i in range(len(caches))], "params": weights}
