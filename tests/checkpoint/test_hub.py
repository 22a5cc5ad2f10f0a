"""Hub ids: what is downloaded, and a sentence where it cannot be."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants, errors
from support.checkpoints import write_checkpoint

from vamc_py.checkpoint import open_checkpoint
from vamc_py.checkpoint.hub import is_hub_id
from vamc_py.errors import CheckpointError


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("Qwen/Qwen3-0.6B", True),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", True),
        ("/models/Qwen3", False),
        ("./models/Qwen3", False),
        ("../Qwen3", False),
        ("a/b/c", False),
        ("Qwen3", False),
        ("~/Qwen3", False),
    ],
)
def test_hub_ids(location: str, expected: bool) -> None:
    assert is_hub_id(location) is expected


def test_without_a_network_one_sentence_comes_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Nothing listens on port 9 of this host: the same as a host that cannot be reached, without waiting for a name.
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    start = time.monotonic()
    with pytest.raises(CheckpointError, match=r"Qwen/Qwen3-0\.6B.*cannot be reached.*frontend\.checkpoint") as error:
        open_checkpoint("Qwen/Qwen3-0.6B", "huggingface")
    assert time.monotonic() - start < 5
    assert "\n" not in str(error.value)


def test_the_fetched_folder_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path / "snapshot", architecture="qwen3")

    def snapshot(hub_id: str, *, allow_patterns: list[str], **_: Any) -> str:
        assert hub_id == "Qwen/Qwen3-0.6B"
        assert {"*.safetensors", "*.json", "*_vacc.py"} <= set(allow_patterns)
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert open_checkpoint("Qwen/Qwen3-0.6B", "huggingface").path == tmp_path / "snapshot"


@pytest.mark.parametrize(
    ("error", "match"),
    [
        (errors.HFValidationError("bad"), "no such public model"),
        (errors.OfflineModeIsEnabled("offline"), "cannot be reached"),
        (OSError("No space left on device"), "the download failed: No space left"),
    ],
)
def test_faults_of_the_hub(monkeypatch: pytest.MonkeyPatch, error: Exception, match: str) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(CheckpointError, match=match):
        open_checkpoint("owner/name", "huggingface")
