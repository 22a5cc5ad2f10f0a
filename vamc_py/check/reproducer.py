"""A folder that shows a wrong pass by itself: the module before the pass, its arguments, and a program that compares.

The checkpoint is not needed any more.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tvm

from vamc_py.check.case import Case
from vamc_py.check.interpreter import Interpreter
from vamc_py.check.results import Finding, sentences
from vamc_py.check.scenario import Run, Scenario
from vamc_py.check.smallest import Smallest
from vamc_py.check.values import Array
from vamc_py.check.weights import Weights
from vamc_py.errors import UserError
from vamc_py.inspect.bindings import View
from vamc_py.inspect.plan_json import plan_from_json, plan_to_json
from vamc_py.pipeline.base import Context
from vamc_py.pipeline.pass_options import option_values
from vamc_py.pipeline.program import Program
from vamc_py.pipeline.registry import registered_passes
from vamc_py.pipeline.runner import Planned
from vamc_py.target.description import this_machine
from vamc_py.weights.formats import WeightFormat

SCRIPT = "reproduce.py"
_MODULE, _CASE, _ARRAYS, _README = "before.json", "case.json", "inputs.npz", "README.txt"
_INPUT, _TENSOR, _SEQUENCE = "input.", "tensor.", "sequence."
_SHOWN = 40  # operators that the README writes out

_PROGRAM = '''\
"""Runs before.json before and after a pass, and compares. Exit code: 1 while they differ, 0 once the pass is mended."""

import sys
from pathlib import Path

from vamc_py.check.reproducer import Reproducer
from vamc_py.pipeline.registry import find_pass, make_pass

PASS = {reference!r}
OPTIONS = {options!r}
ALLOWED = {allowed!r}  # relative error

reproducer = Reproducer.read(Path(__file__).parent)
after = make_pass(find_pass(PASS).kind, OPTIONS).apply(reproducer.before, reproducer.context)
errors = reproducer.errors(after)
for name, error in errors.items():
    print(f"{{name}}: relative error {{error:.1e}}, {{ALLOWED:.1e}} are allowed")
sys.exit(0 if all(error <= ALLOWED for error in errors.values()) else 1)
'''


@dataclass(frozen=True)
class Reproducer:
    """What a folder holds."""

    case: Case

    @property
    def before(self) -> Program:
        """The program that the pass is given."""
        return self.case.program

    @property
    def context(self) -> Context:
        """What the pass may ask about the compilation."""
        return self.case.context

    def errors(self, after: Program) -> dict[str, float]:
        """The relative error of each result after the pass, by name. OperatorError for a module that does not run."""
        return self.case.errors(after, Interpreter(self.context.target.tvm_target()))

    @classmethod
    def read(cls, folder: Path) -> Reproducer:
        """UserError where the folder is none of ``write_reproducer``."""
        try:
            facts = json.loads((folder / _CASE).read_text(encoding="utf-8"))
            module = tvm.ir.load_json((folder / _MODULE).read_text(encoding="utf-8"))
            with np.load(folder / _ARRAYS, allow_pickle=False) as arrays:
                held = {name: arrays[name] for name in arrays.files}
        except (OSError, ValueError) as error:
            raise UserError(f"{folder}: cannot be read as a reproducer of `vamc-py check --bisect` ({error})") from None
        tensors, inputs = _part(held, _TENSOR), _part(held, _INPUT)
        calls = tuple(tuple(Run(*run) for run in call) for call in facts["calls"])
        sequences = tuple(_part(held, _SEQUENCE).values())
        formats = {name: WeightFormat(**fields) for name, fields in facts["formats"].items()}
        context = Context(this_machine(facts["dtype"]), facts["prefill"], facts["context"], formats)
        program = Program(module, plan_from_json(facts["plan"]))
        scenario = Scenario((sequences[0], sequences[1]), calls) if calls else None
        return cls(Case(program, context, Weights(tensors.__getitem__), None if scenario else inputs, scenario))


def check_output(folder: Path) -> None:
    """UserError where something else than an older reproducer is in the way."""
    if folder.exists() and not (folder / SCRIPT).is_file():
        raise UserError(f"{folder}: is there already, and no reproducer; choose another folder with -o")


def write_reproducer(folder: Path, smallest: Smallest, planned: Planned, finding: Finding, layers: int) -> None:
    """Writes the folder beside its place and renames it; an older reproducer there is replaced."""
    check_output(folder)
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}-{secrets.token_hex(4)}")
    old = partial.with_name(f"{partial.name}.old")
    try:
        partial.mkdir(parents=True)
        _write(partial, smallest, planned, finding, layers)
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another folder with -o") from None
    finally:
        for rest in (partial, old):
            shutil.rmtree(rest, ignore_errors=True)


def _write(folder: Path, smallest: Smallest, planned: Planned, finding: Finding, layers: int) -> None:
    case = smallest.case
    facts = {
        "plan": plan_to_json(case.program.plan),
        "calls": [[[run.sequence, run.first, run.stop] for run in call] for call in _calls(case)],
        "dtype": case.context.target.dtype,
        "prefill": case.context.prefill,
        "context": case.context.context,
        "formats": {name: dataclasses.asdict(form) for name, form in case.context.formats.items()},
    }
    (folder / _CASE).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    (folder / _MODULE).write_text(tvm.ir.save_json(case.program.module), encoding="utf-8")
    with (folder / _ARRAYS).open("wb") as file:
        np.savez(file, allow_pickle=False, **dict(_arrays(case)))
    options, allowed = option_values(planned.one), finding.allowed if case.scenario else finding.tolerance
    script = _PROGRAM.format(reference=pass_reference(planned), options=options, allowed=allowed)
    (folder / SCRIPT).write_text(script, encoding="utf-8")
    (folder / _README).write_text("\n".join(_readme(smallest, finding, layers)) + "\n", encoding="utf-8")


def pass_reference(planned: Planned) -> str:
    """How ``find_pass`` finds the pass, from any folder: its name, or its file and class."""
    if ".py:" in planned.origin:
        path, _, name = planned.origin.rpartition(":")
        return f"{Path(path).resolve()}:{name}"
    kind = type(planned.one)
    known = registered_passes().get(kind.name)
    return kind.name if known and known.kind is kind else f"{inspect.getsourcefile(kind)}:{kind.__qualname__}"


def _calls(case: Case) -> tuple[Any, ...]:
    return case.scenario.calls if case.scenario else ()


def _arrays(case: Case) -> Iterator[tuple[str, Array]]:
    for name, array in (case.inputs or {}).items():
        yield _INPUT + name, array
    for index, sequence in enumerate(case.scenario.sequences if case.scenario else ()):
        yield f"{_SEQUENCE}{index}", sequence
    for name in dict.fromkeys(source for recipe in case.program.plan.recipes.values() for source in recipe.sources):
        tensor = case.weights.read(name)
        # numpy cannot write bfloat16; float32 holds the same numbers.
        yield _TENSOR + name, tensor.astype(np.float32) if tensor.dtype.name == "bfloat16" else tensor


def _part(held: dict[str, Array], prefix: str) -> dict[str, Array]:
    return {name.removeprefix(prefix): array for name, array in held.items() if name.startswith(prefix)}


def _readme(smallest: Smallest, finding: Finding, layers: int) -> Iterator[str]:
    yield from sentences(finding)
    yield ""
    cut = f"{smallest.operators} of the {smallest.of} operators of a model with {layers} layer{'s' * (layers > 1)}"
    view = View(smallest.case.program.function)
    if smallest.operators > _SHOWN:
        yield f"{_MODULE} is the module before the pass: {cut}. It could not be cut further."
    else:
        yield f"{_MODULE} is the module before the pass, cut to {cut}:"
        yield from (f"  {name}: {kind}" for name, kind in view.parameters)
        yield from (f"  {view.line(statement)}" for statement in view.statements)
    yield ""
    yield f"{_ARRAYS} has its inputs and the checkpoint's tensors, {_CASE} how weights are made of them."
    yield f"To compare the module before and after the pass: python {SCRIPT}"
    yield "It exits with 1 while they differ, and with 0 once the pass is mended. It needs vamc-py, not the checkpoint."
