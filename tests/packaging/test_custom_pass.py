"""The example of a pass in a package of its own: built, installed beside vamc-py, and used by name."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from support.building import build_wheel, create_environment, pip, run
from support.checkpoints import write_checkpoint
from support.end_to_end import YAML, compile_checkpoint
from support.project_tree import ROOT, project_files

from vamc_py.inspect.dump import open_dump
from vamc_py.inspect.report import make_report
from vamc_py.runtime.executor import Executor

EXAMPLE = Path("examples/custom_pass")
PASSES = """\
passes:
  - name: clamp-logits
    options: {limit: 0.5}
"""


@dataclass(frozen=True)
class Installed:
    """An environment with both wheels, the model compiled there, and the same model without the pass."""

    folder: Path
    clamped: Path
    plain: Path

    def vamc(self, *arguments: str | Path) -> str:
        """What ``vamc-py`` of the environment prints."""
        program = self.folder / "environment" / "bin" / "vamc-py"
        return run([str(program), *map(str, arguments)], cwd=self.folder)


def build_example(folder: Path) -> Path:
    """The example's wheel, from a copy: building writes into the tree."""
    source = folder / "source"
    source.mkdir()
    for path in project_files():
        if path.parent == EXAMPLE:
            shutil.copy2(ROOT / path, source)
    return build_wheel(source, folder / "wheel")


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("custom_pass")
    python = create_environment(folder / "environment")
    archives = [str(wheel), str(build_example(folder))]
    pip("install", "--no-deps", "--ignore-installed", *archives, python=python)
    origin = run([str(python), "-c", "import vamc_py; print(vamc_py.__file__)"], cwd=folder)
    assert Path(origin).is_relative_to(folder / "environment")
    write_checkpoint(folder / "checkpoint", architecture="qwen3", layers=1, scale=0.3)
    values = {"checkpoint": folder / "checkpoint", "kind": "huggingface", "prefill": 16, "context": 64}
    text = YAML.format(**values, arch="null", trust="false", dtype="int8", workspace=folder / "clamped")
    (folder / "model.yaml").write_text(text + PASSES)
    checkpoint, out = folder / "checkpoint", folder / "plain"
    plain = compile_checkpoint(checkpoint, out, ir=True, dtype="int8", prefill=16, context=64)
    made = Installed(folder, folder / "clamped" / "model", plain.folder)
    assert made.vamc("compile", "model.yaml") == f"{made.clamped}\n"
    return made


def test_the_pipeline_has_it_behind_quantization(installed: Installed) -> None:
    stages = open_dump(installed.clamped).index.stages
    labels = [stage.label for stage in stages]
    without = [stage.label for stage in open_dump(installed.plain).index.stages]
    at = labels.index("clamp-logits")
    assert stages[at].origin == "vamc-custom-pass 0.1.0"
    assert (labels[at - 1], labels[at + 1]) == ("quantize-activations", "select-kernels")
    assert [*labels[:at], *labels[at + 1 :]] == without


def test_the_difference_shows_the_clip(installed: Installed) -> None:
    shown = installed.vamc("ir", "diff", f"{installed.clamped}:clamp-logits").splitlines()
    [added] = [line for line in shown if line.startswith("+") and "clip(" in line]
    assert added.endswith(", -0.5, 0.5)")
    assert not any(line.startswith(("-", "+")) and "linear" in line for line in shown)


def test_the_report_names_the_package(installed: Installed) -> None:
    steps = {step.label: step for step in make_report(open_dump(installed.clamped), None, None, measure=False).steps}
    step = steps["clamp-logits"]
    assert step.origin == "vamc-custom-pass 0.1.0"
    assert step.options == {"limit": 0.5}
    assert step.changed
    assert step.operators["clip"] == 1
    [change] = step.changes
    added = [line.text for hunk in change.hunks for line in hunk.lines if line.kind == "added"]
    assert any("clip(" in text for text in added)


def test_the_logits_are_those_without_the_pass_clipped(installed: Installed) -> None:
    plain, clamped = (
        Executor.load(path).feed([5, 7, 11], slot=0, start=0) for path in (installed.plain, installed.clamped)
    )
    assert np.abs(plain).max() > 0.5
    np.testing.assert_array_equal(clamped, plain.clip(-0.5, 0.5))
