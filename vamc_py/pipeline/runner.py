"""Runs a list of passes, after checking that it can be run."""

from __future__ import annotations

from collections.abc import Sequence

from vamc_py.pipeline.base import STAGES, Context, Pass
from vamc_py.pipeline.program import Program


def check_pipeline(passes: Sequence[Pass], target: str) -> None:
    """ValueError when a pass does not serve the target, runs before its stage, or before what it requires."""
    done: set[str] = set()
    for one in passes:
        if target not in one.targets:
            raise ValueError(f"the pass {one.name} does not serve the target {target}")
        missing = [name for name in one.requires if name not in done]
        if missing:
            raise ValueError(f"the pass {one.name} needs {', '.join(missing)} to run before it")
        done.add(one.name)
    # simplify may run anywhere; every other pass keeps the order of the stages.
    order = [STAGES.index(one.stage) for one in passes if one.name != "simplify"]
    if order != sorted(order):
        raise ValueError(f"the passes do not keep the order of the stages ({', '.join(STAGES)})")


def run_passes(program: Program, passes: Sequence[Pass], context: Context) -> Program:
    """The program after all passes."""
    check_pipeline(passes, context.target.kind)
    for one in passes:
        program = one.apply(program, context)
    return program
