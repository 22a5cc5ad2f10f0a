"""``vamc-py compile`` in a process of its own: 2 and a sentence for bad input, 1 and a traceback for our own faults."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.checkpoints import write_checkpoint
from support.end_to_end import YAML

NORMAL = "from vamc_py.cli import main; main()"
# What a fault of ours in the passes, and a full disk once the folder is made, look like.
BROKEN_PASS = "import vamc_py.compiler as c; c.lower = lambda *_: 1 / 0; " + NORMAL
FULL_DISK = (
    "import errno, os, vamc_py.compiler as c\n"
    "def full(*_): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))\n"
    "c.lower = full\n" + NORMAL
)


def compile_(text: str, folder: Path, *overrides: str, program: str = NORMAL) -> subprocess.CompletedProcess[str]:
    """Runs ``vamc-py compile`` on a YAML text, in the folder."""
    (folder / "model.yaml").write_text(text)
    options = [word for override in overrides for word in ("--set", override)]
    command = [sys.executable, "-c", program, "compile", "model.yaml", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


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
def test_bad_input(folder: Path, text: str, damage: Callable[[Path], None], said: str) -> None:
    damage(folder)
    done = compile_(text, folder)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    [fault] = [line for line in done.stderr.splitlines() if line.startswith("vamc-py: error: ")]
    assert said in fault
    assert "Traceback" not in done.stderr
    assert not list(folder.glob("out/*")) + list(folder.glob("out/.*"))


def test_a_context_beyond_the_model_names_its_place_and_the_most(folder: Path) -> None:
    done = compile_(yaml(), folder, "frontend.shape.input_ids=[[64], [1024]]")
    assert done.returncode == 2
    assert "--set frontend.shape.input_ids" in done.stderr
    assert "the context of 1024 is longer than the 512 positions" in done.stderr


def test_a_fault_of_ours_keeps_its_traceback(folder: Path) -> None:
    done = compile_(yaml(), folder, program=BROKEN_PASS)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ZeroDivisionError: division by zero"
    assert "Traceback" in done.stderr
    assert list((folder / "out").iterdir()) == []


def test_a_full_disk_is_a_sentence(folder: Path) -> None:
    done = compile_(yaml(), folder, program=FULL_DISK)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "vamc-py: error: out: No space left on device; make room, or set another workspace.path"
    )
    assert list((folder / "out").iterdir()) == []
