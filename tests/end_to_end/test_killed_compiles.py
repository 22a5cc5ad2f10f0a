"""A real ``vamc-py compile`` that is killed at each of its stages: no artifact appears, and nothing stays for good."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.checkpoints import write_checkpoint
from support.end_to_end import configuration

from vamc_py.artifact.manifest import MANIFEST_FILE
from vamc_py.artifact.verify import check_for_load
from vamc_py.compiler import compile_config
from vamc_py.config import LoadedConfig
from vamc_py.errors import ArtifactError

# A test that runs in the background would hand down that SIGINT is ignored; a terminal does not.
PROGRAM = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from vamc_py.cli import main; main()"
)

FEW_KERNELS = ["frontend.quantize.activation=int16"]  # one for each layer, where other activations have two


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with a large vocabulary, so that its weights take long enough to be interrupted."""
    folder = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(folder, architecture="qwen3", layers=1, vocab=200_000, dtype="bfloat16")
    return folder


def compile_until(loaded: LoadedConfig, stage: str, signal_number: int) -> int:
    """Compiles in another process and sends it the signal when it enters the stage; its exit code."""
    loaded.path.write_text(loaded.text)
    command = [sys.executable, "-c", PROGRAM, "compile", str(loaded.path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line == f"{stage}\n":
                time.sleep(0.02)  # into its work
                process.send_signal(signal_number)
                break
        process.stderr.read()
        return process.wait(60)


def left(workspace: Path) -> list[str]:
    """What is in the workspace besides the YAML file."""
    return sorted(path.name for path in workspace.iterdir() if path.suffix != ".yaml")


@pytest.mark.parametrize(
    ("stage", "signal_number"),
    [
        ("checkpoint", signal.SIGINT),
        ("trace", signal.SIGTERM),
        ("passes", signal.SIGINT),
        ("build", signal.SIGTERM),
        ("weights", signal.SIGINT),
    ],
)
def test_a_polite_kill_leaves_nothing(checkpoint: Path, tmp_path: Path, stage: str, signal_number: int) -> None:
    loaded = configuration(checkpoint, tmp_path, dtype="int8", overrides=FEW_KERNELS)
    assert compile_until(loaded, stage, signal_number) == 130
    assert left(tmp_path) == []


def test_sigkill_leaves_a_hidden_folder_until_the_next_compile(checkpoint: Path, tmp_path: Path) -> None:
    """A next one that is killed, too, and one that is not."""
    loaded = configuration(checkpoint, tmp_path, dtype="int8", overrides=FEW_KERNELS)
    old = tmp_path / "model" / MANIFEST_FILE  # an older artifact is replaced by a whole one or not at all
    old.parent.mkdir()
    old.write_text("{}")
    seen = set()
    for stage in ("build", "weights"):
        assert compile_until(loaded, stage, signal.SIGKILL) == -signal.SIGKILL
        assert old.read_text() == "{}"
        hidden, artifact = left(tmp_path)
        assert artifact == "model"
        assert hidden.startswith(".model.partial-")
        with pytest.raises(ArtifactError, match=MANIFEST_FILE):
            check_for_load(tmp_path / hidden)
        seen.add(hidden)
    assert len(seen) == 2  # each its own
    compile_config(loaded)
    assert left(tmp_path) == ["model"]
    assert old.read_text() != "{}"
