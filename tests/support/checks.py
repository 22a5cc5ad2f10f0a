"""Checks of tiny random models that share what was compiled and traced before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from support.checkpoints import write_checkpoint
from support.end_to_end import configuration

from vamc_py.check.check import Checker, Faulty
from vamc_py.check.interpreter import Interpreter
from vamc_py.check.results import CheckResult
from vamc_py.pipeline.base import Pass
from vamc_py.pipeline.runner import Planned, planned
from vamc_py.target.description import this_machine


@cache
def interpreter() -> Interpreter:
    """One for all tests of a process: operators and kernels are compiled once."""
    return Interpreter(this_machine("fp32").tvm_target())


def tiny_checker(folder: Path, *, dtype: str, tokens: int = 16, overrides: Sequence[str] = (), **model: Any) -> Checker:
    """A checker of a random model in ``folder``; ``model`` are arguments of ``write_checkpoint``."""
    if not (folder / "config.json").exists():
        write_checkpoint(folder, **model)
    loaded = configuration(folder, folder.parent, dtype=dtype, overrides=overrides)
    return Checker(loaded, tokens=tokens, interpreter=interpreter())


def checked(checker: Checker, layers: int = 2, *, build: bool = False) -> tuple[CheckResult, Faulty | None]:
    """The result, and the wrong pass if there is one."""
    result = CheckResult()
    return result, checker.run(layers, result, build=build)


def with_pass(pipeline: Sequence[Planned], one: Pass, neighbour: str) -> tuple[Planned, ...]:
    """The pipeline with a pass behind the one of that name, or in its place where it has the same name."""
    passes = []
    for step in pipeline:
        passes += [] if step.one.name == one.name else [step.one]
        passes += [one] if step.one.name == neighbour else []
    return tuple(replace(step, origin="test") if step.one is one else step for step in planned(passes))
