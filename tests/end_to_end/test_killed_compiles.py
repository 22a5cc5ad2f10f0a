"""A real ``vamc-py compile`` that is killed at each of its stages: no artifact appears, and nothing stays for good."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from support.checkpoints import write_checkpoint
from support.end_to_end import configuration
from support.killed import compile_until, left

from vamc_py.artifact.manifest import MANIFEST_FILE
from vamc_py.artifact.verify import check_for_load
from vamc_py.compiler import compile_config
from vamc_py.errors import ArtifactError

FEW_KERNELS = ["frontend.quantize.activation=int16"]  # one for each layer, where other activations have two


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with a large vocabulary, so that its weights take long enough to be interrupted."""
    folder = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(folder, architecture="qwen3", layers=1, vocab=200_000, dtype="bfloat16")
    return folder


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
