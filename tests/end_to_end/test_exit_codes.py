"""``vamc-py compile``: 2 and a sentence for bad input, 1 and a traceback for our own faults.

In this process, which has loaded torch and TVM; a fault of each kind also in a process of its own, as a user has it.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.checkpoints import write_checkpoint
from support.end_to_end import YAML

from vamc_py import compiler
from vamc_py.cli import main

NORMAL = "from vamc_py.cli import main; main()"
BROKEN_PASS = "import vamc_py.compiler as c; c.lower = lambda *_: 1 / 0; " + NORMAL  # what a fault of ours looks like


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it wrote."""

    returncode: int
    stdout: str
    stderr: str


Compile = Callable[..., Done]


def compile_apart(text: str, folder: Path, program: str = NORMAL) -> Done:
    """Runs ``vamc-py compile`` on a YAML text, in the folder, in another process."""
    (folder / "model.yaml").write_text(text)
    command = [sys.executable, "-c", program, "compile", "model.yaml"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def compile_(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Compile:
    """``compile_(text, *overrides)`` runs ``vamc-py compile`` in the folder. A fault of ours would leave it."""

    def run(text: str, *overrides: str) -> Done:
        (folder / "model.yaml").write_text(text)
        monkeypatch.chdir(folder)
        options = [word for override in overrides for word in ("--set", override)]
        with pytest.raises(SystemExit) as left:
            main(["compile", "model.yaml", *options])
        written = capfd.readouterr()
        assert isinstance(left.value.code, int)
        return Done(left.value.code, written.out, written.err)

    return run


def yaml(checkpoint: str = "model", context: int = 128, workspace: str = "out") -> str:
    return YAML.format(
        checkpoint=checkpoint, kind="huggingface", prefill=64, context=context, arch="null", trust="false",
        dtype="int8", workspace=workspace,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the process runs, with a checkpoint ``model`` and a file ``file`` in it."""
    write_checkpoint(tmp_path / "model", architecture="qwen3", max_positions=512)
    (tmp_path / "file").touch()
    return tmp_path


def truncate(folder: Path) -> None:
    weights = folder / "model/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def no_tokenizer(folder: Path) -> None:
    (folder / "model/tokenizer.json").unlink()


def ill_typed_config(folder: Path) -> None:
    config = folder / "model/config.json"
    config.write_text(config.read_text().replace('"hidden_size": 64', '"hidden_size": "64"'))


def nothing(_folder: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("text", "damage", "said"),
    [
        ("name: [", nothing, "model.yaml:1:8: not YAML: "),
        (yaml("nowhere"), nothing, "there is no folder nowhere; correct frontend.checkpoint"),
        (yaml(), truncate, "model/model.safetensors"),
        (yaml(), no_tokenizer, "tokenizer.json"),
        (yaml(), ill_typed_config, "model/config.json: hidden_size: a whole number is expected, not '64'"),
        (yaml(workspace="file"), nothing, "file: cannot be written (File exists); set workspace.path to a folder"),
        (yaml(workspace="/proc"), nothing, "/proc: cannot be written (No such file or directory)"),
        (yaml(workspace="file/below"), nothing, "file/below: cannot be written (Not a directory)"),
        (yaml(context=528), nothing, "model.yaml:6:"),
    ],
    ids=[
        "bad YAML", "no checkpoint", "truncated weights", "no tokenizer", "ill-typed config", "workspace is a file",
        "unwritable workspace", "workspace below a file", "context beyond the model",
    ],
)  # fmt: skip
def test_bad_input(folder: Path, compile_: Compile, text: str, damage: Callable[[Path], None], said: str) -> None:
    damage(folder)
    check_refusal(compile_(text), folder, said)


def test_bad_input_in_a_process_of_its_own(folder: Path) -> None:
    ill_typed_config(folder)
    done = compile_apart(yaml(), folder)
    check_refusal(done, folder, "model/config.json: hidden_size: a whole number is expected, not '64'")


def check_refusal(done: Done, folder: Path, said: str) -> None:
    """2, one sentence with these words on stderr, and nothing left behind."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    [fault] = [line for line in done.stderr.splitlines() if line.startswith("vamc-py: error: ")]
    assert said in fault
    assert "Traceback" not in done.stderr
    assert not list(folder.glob("out/*")) + list(folder.glob("out/.*"))


def test_a_context_beyond_the_model_names_its_place_and_the_most(compile_: Compile) -> None:
    done = compile_(yaml(), "frontend.shape.input_ids=[[64], [1024]]")
    assert done.returncode == 2
    assert "--set frontend.shape.input_ids" in done.stderr
    assert "the context of 1024 is longer than the 512 positions" in done.stderr


def test_a_fault_of_ours_keeps_its_traceback(folder: Path) -> None:
    done = compile_apart(yaml(), folder, BROKEN_PASS)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ZeroDivisionError: division by zero"
    assert "Traceback" in done.stderr
    assert list((folder / "out").iterdir()) == []


def test_a_full_disk_is_a_sentence(folder: Path, compile_: Compile, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(compiler, "lower", full)  # once the folder is made
    done = compile_(yaml())
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "vamc-py: error: out: No space left on device; make room, or set another workspace.path"
    )
    assert list((folder / "out").iterdir()) == []
