"""What ``--bisect`` cuts a wrong pass down to, and the folder that shows it without the checkpoint."""

from __future__ import annotations

import runpy
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import planted_passes as planted
import pytest
from support.checks import checked, interpreter, tiny_checker, with_pass

from vamc_py.check.bisect import bisect
from vamc_py.check.check import Checker
from vamc_py.check.reproducer import SCRIPT, Reproducer, check_output
from vamc_py.check.smallest import Smallest, operator_count, smallest_case
from vamc_py.errors import UserError
from vamc_py.pipeline.base import Pass
from vamc_py.pipeline.graph import Graph, operator_name
from vamc_py.pipeline.registry import find_pass, make_pass

Checkers = Callable[[str], Checker]


@pytest.fixture(scope="module")
def checkers(tmp_path_factory: pytest.TempPathFactory) -> Checkers:
    @cache
    def make(architecture: str) -> Checker:
        folder = tmp_path_factory.mktemp("checkpoint") / "model"
        return tiny_checker(folder, architecture=architecture, dtype="int8", layers=2, scale=0.2)

    return make


def cut_down(checker: Checker, one: Pass, neighbour: str) -> Smallest:
    genuine = checker.pipeline
    checker.pipeline = with_pass(genuine, one, neighbour)
    try:
        _, faulty = checked(checker, 1)
    finally:
        checker.pipeline = genuine
    assert faulty is not None
    return smallest_case(faulty, checker.context)


def operators(smallest: Smallest) -> list[str]:
    values = Graph(smallest.case.program.function).values.values()
    return [name.removeprefix("relax.") for value in values if (name := operator_name(value))]


@pytest.mark.parametrize(
    ("one", "neighbour", "model", "left"),
    [
        (planted.DroppedBias(), "raise-linear", "qwen2", ["vamc.linear"]),
        (planted.UpIsGate(), "raise-swiglu", "qwen3", ["vamc.swiglu"]),
        (planted.ValuesAreKeys(), "merge-linear", "qwen3", ["vamc.linear"] * 3),
        (planted.ScalesOffByOne(), "quantize-int8", "qwen2", ["vamc.embedding"]),
        (planted.OtherResidual(), "fuse-residual", "qwen2", ["vamc.linear", "add"] * 2),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Pass) else "",
)
def test_only_what_shows_the_fault_is_left(
    checkers: Checkers, one: Pass, neighbour: str, model: str, left: list[str]
) -> None:
    smallest = cut_down(checkers(model), one, neighbour)
    assert operators(smallest) == left
    assert (smallest.operators, smallest.operators < smallest.of) == (len(left), True)
    again = smallest.case.errors(one.apply(smallest.case.program, smallest.case.context), interpreter())
    assert again == smallest.errors
    assert max(again.values()) > 10 * one.tolerance or max(again.values()) > 0.1


def test_a_pass_that_changes_the_arguments_needs_the_whole_function(checkers: Checkers) -> None:
    smallest = cut_down(checkers("qwen3"), planted.PositionsOffByOne(), "kv-cache-layout")
    assert smallest.operators == smallest.of == operator_count(smallest.case.program)
    assert smallest.case.scenario is not None
    assert len(smallest.case.scenario.calls) == 1
    mixed = cut_down(checkers("qwen2"), planted.OtherSlot(), "kv-cache-layout")
    assert mixed.case.scenario is not None
    assert len(mixed.case.scenario.calls) == 3  # the step with two sequences


PASS = """\
from dataclasses import dataclass
from typing import ClassVar

from vamc_py.dialect import swiglu
from vamc_py.pipeline.base import Pass
from vamc_py.pipeline.graph import Graph


@dataclass(frozen=True)
class Mended(Pass):
    \"\"\"Swaps what swiglu reads, or does not.\"\"\"

    swap: bool = True

    name: ClassVar[str] = "own-pass"
    stage: ClassVar[str] = "raise"

    def apply(self, program, context):
        graph = Graph(program.function)
        for var, call in graph.calls("relax.vamc.swiglu"):
            gate, up = call.args
            graph.replace(var, swiglu(up, gate) if self.swap else swiglu(gate, up))
        return program.with_function(graph.rebuild())
"""


def test_the_folder_shows_the_fault_until_the_pass_is_mended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "own_pass.py"
    file.write_text(PASS)
    overrides = [f"passes=[{{file: '{file}:Mended', after: raise-swiglu}}]"]
    checker = tiny_checker(tmp_path / "model", architecture="qwen3", dtype="fp32", layers=2, overrides=overrides)
    _, faulty = checked(checker)
    assert faulty is not None
    folder = tmp_path / "out" / "case"
    text = bisect(checker, faulty, 2, folder)
    assert text.startswith("smallest module that shows it: 1 layer, 1 of ")
    assert text.endswith(f"python {folder / SCRIPT}")
    assert [path.name for path in folder.parent.iterdir()] == ["case"]
    assert {path.name for path in folder.iterdir()} == {SCRIPT, "README.txt", "before.json", "case.json", "inputs.npz"}
    readme = (folder / "README.txt").read_text()
    assert "the pass own-pass" in readme
    assert "vamc.swiglu(" in readme
    assert sum(path.stat().st_size for path in folder.iterdir()) < 100_000
    assert run_script(folder) == 1
    assert "relative error" in capsys.readouterr().out
    file.write_text(PASS.replace("swap: bool = True", "swap: bool = False"))
    script = folder / SCRIPT
    script.write_text(script.read_text().replace("{'swap': True}", "{}"))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, cwd="/")
    assert (done.returncode, done.stderr) == (0, "")
    assert "relative error 0.0e+00" in done.stdout
    bisect(checker, faulty, 2, folder)  # again: the older one is replaced
    assert "{'swap': True}" in script.read_text()


def run_script(folder: Path) -> int:
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(folder / SCRIPT), run_name="__main__")
    return int(str(left.value.code))


def test_whole_sequences_are_kept_too(checkers: Checkers, tmp_path: Path) -> None:
    checker = checkers("qwen2")
    genuine = checker.pipeline
    checker.pipeline = with_pass(genuine, planted.OtherSlot(), "kv-cache-layout")
    try:
        _, faulty = checked(checker, 1)
    finally:
        checker.pipeline = genuine
    assert faulty is not None
    bisect(checker, faulty, 1, tmp_path / "case")
    reproducer = Reproducer.read(tmp_path / "case")
    assert reproducer.context == checker.context
    for name, wrong in (("OtherSlot", True), ("kv-cache-layout", False)):
        reference = f"{planted.__file__}:{name}" if wrong else name
        after = make_pass(find_pass(reference).kind, {}).apply(reproducer.before, reproducer.context)
        assert (reproducer.case.errors(after, interpreter())["logits"] > 0.1) is wrong


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="is there already, and no reproducer"):
        check_output(tmp_path / "mine")
    check_output(tmp_path / "new")
    with pytest.raises(UserError, match="cannot be read as a reproducer"):
        Reproducer.read(tmp_path / "mine")
