"""``vamc-py compile``: what it takes, what goes to stdout and to stderr, and which notes it gives."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
from support.checkpoints import write_checkpoint
from support.end_to_end import without_code

from vamc_py import compiler
from vamc_py.artifact.manifest import MANIFEST_FILE
from vamc_py.cli import main
from vamc_py.compiler import Compiled

YAML = """\
name: tiny
frontend:
  checkpoint: {checkpoint}
  shape: {{input_ids: [[16], [64]]}}
backend: {{type: tvm_llvm, dtype: int8, compile: {{data_type: 0}}}}
workspace: {{path: {workspace}, workers: 4}}
"""
NOTICE = "notice: tvm_llvm w8a16 does not use: backend.compile, workspace.workers."


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A YAML file with keys that llvm does not use, and nothing at its checkpoint yet."""
    path = tmp_path / "tiny.yaml"
    path.write_text(YAML.format(checkpoint=tmp_path / "model", workspace=tmp_path / "out"))
    return path


def compile_(*arguments: str | Path) -> None:
    """Runs the command in this process; it ends by SystemExit(0)."""
    with pytest.raises(SystemExit) as left:
        main(["compile", *map(str, arguments)])
    assert left.value.code in (0, None)


def test_help_shows_an_example() -> None:
    command = [sys.executable, "-m", "vamc_py.cli", "compile", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "Example: vamc-py compile examples/hf_qwen3_int8.yaml --set workspace.path=" in " ".join(done.stdout.split())
    assert "--set KEY=VALUE" in done.stdout


def test_folder_on_stdout_and_the_rest_on_stderr(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_checkpoint(config.parent / "model", architecture="qwen3")
    compile_(config, "--set", "name=other", "--set", "backend.dtype=fp16")
    written = capsys.readouterr()
    folder = config.parent / "out/other"
    assert written.out == f"{folder}\n"
    lines = written.err.splitlines()
    assert lines.count(NOTICE.replace(" w8a16", "")) == 1
    stages = [line for line in lines if ":" not in line]
    assert stages.pop(1).startswith("needs about 4")
    assert stages == ["checkpoint", "trace", "import", "passes", "build", "weights"]
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    assert (manifest["name"], manifest["target"]["dtype"], manifest["slow_operators"]) == ("other", "fp16", [])
    assert not any(line.startswith("note: ") for line in lines)


def test_slow_operators_are_named(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without_code(monkeypatch)
    # The attention kernels work on heads of whole vectors; 8 is half of one.
    write_checkpoint(config.parent / "model", architecture="qwen3", head_dim=8, heads=8)
    compile_(config)
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert any("attention" in note and note.endswith("runs on TVM's unscheduled loops") for note in notes)
    manifest = json.loads((config.parent / "out/tiny" / MANIFEST_FILE).read_text())
    assert notes == [f"note: {operator}" for operator in manifest["slow_operators"]]


def test_a_later_override_wins(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = []

    def compiled(loaded: Any, _inspection: Any) -> Compiled:
        names.append(loaded.config.name)
        return Compiled(loaded.config.artifact_dir, ())

    monkeypatch.setattr(compiler, "compile_config", compiled)
    compile_(config, "--set", "name=one", "--set", "name=two")
    assert names == ["two"]


def at_once(_loaded: Any, _inspection: Any) -> Compiled:
    signal.raise_signal(signal.SIGTERM)
    raise AssertionError("the signal was not heard")


def in_a_callback_of_tvm(_loaded: Any, _inspection: Any) -> Compiled:
    try:
        signal.raise_signal(signal.SIGTERM)
    except KeyboardInterrupt:
        raise RuntimeError from None
    raise AssertionError("the signal was not heard")


def in_a_finalizer(_loaded: Any, _inspection: Any) -> Compiled:
    def finalize(_reference: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    value = {1}
    reference = weakref.ref(value, finalize)
    del value
    assert reference() is None
    for _ in range(100):
        time.sleep(0.01)
    raise AssertionError("the signal was not heard")


@pytest.mark.parametrize("killed", [at_once, in_a_callback_of_tvm, in_a_finalizer])
def test_sigterm_ends_like_an_interrupt(config: Path, monkeypatch: pytest.MonkeyPatch, killed: Any) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(compiler, "compile_config", killed)
    with pytest.raises(SystemExit) as left:
        main(["compile", str(config)])
    assert left.value.code == 130
    assert signal.getsignal(signal.SIGTERM) is before
