"""What a compile says it will need, against what it takes, and its refusals."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from support.checkpoints import write_checkpoint
from support.end_to_end import configuration, without_code

from vamc_py import needs
from vamc_py.artifact.manifest import MANIFEST_FILE, PARAMETERS_FILE
from vamc_py.compiler import compile_config, open_model
from vamc_py.errors import ConfigError, UserError


@pytest.mark.parametrize(
    ("dtype", "overrides"),
    [
        ("fp32", []),
        ("fp16", []),
        ("int8", []),
        ("int8", ["frontend.quantize.type=w4a16", "frontend.quantize.group=32", "frontend.quantize.zeros=true"]),
        ("int8", ["frontend.quantize.rules=[{match: '*.down_proj', type: fp16}]", "frontend.quantize.lm_head=false"]),
    ],
)
def test_the_disk_is_that_of_the_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, overrides: list[str]
) -> None:
    monkeypatch.setattr(needs, "_MODULE", 0)
    without_code(monkeypatch)
    write_checkpoint(tmp_path / "checkpoint", architecture="qwen2", hidden=80, intermediate=176, tied=False)
    loaded = configuration(tmp_path / "checkpoint", tmp_path, dtype=dtype, overrides=overrides)
    told = needs.compile_needs(loaded.config, *open_model(loaded.config)).disk
    taken = (compile_config(loaded).folder / PARAMETERS_FILE).stat().st_size
    # Panels are filled up before q, k and v are merged here, after it there.
    assert taken * 0.98 <= told <= taken * 1.08


def free(monkeypatch: pytest.MonkeyPatch, *, memory: int = 1 << 40, disk: int = 1 << 40) -> None:
    monkeypatch.setattr(needs, "available_memory", lambda: memory)
    monkeypatch.setattr(needs.shutil, "disk_usage", lambda path: SimpleNamespace(free=disk))


def test_too_little_memory_or_disk_is_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_checkpoint(tmp_path / "checkpoint", architecture="qwen3")
    loaded = configuration(tmp_path / "checkpoint", tmp_path, dtype="int8")
    free(monkeypatch, memory=100 << 20)
    with pytest.raises(UserError, match=r"needs about 4\d\d MB of memory .*, and 105 MB of memory are free"):
        compile_config(loaded)
    free(monkeypatch, disk=1 << 20)
    with pytest.raises(
        ConfigError, match=r"workspace.path: the compile needs about .*, and 1 MB of disk are free there"
    ):
        compile_config(loaded)
    assert not (loaded.config.artifact_dir / MANIFEST_FILE).exists()
    assert "needs about 4" in capsys.readouterr().err


def test_a_calibration_needs_more(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoint", architecture="qwen3")
    plain = configuration(tmp_path / "checkpoint", tmp_path, dtype="int8")
    asked = ["frontend.quantize.type=w4a16_gptq", "dataset={name: c4, path: none, nsamples: 64, seqlen: 128}"]
    calibrated = configuration(tmp_path / "checkpoint", tmp_path, dtype="int8", overrides=asked)
    few, many = (needs.compile_needs(one.config, *open_model(one.config)) for one in (plain, calibrated))
    assert many.memory > few.memory + 64 * 128 * 64 * 4
    assert many.cache > 0 == few.cache
    assert "where calibrations are kept" in str(many)


def test_the_limit_of_the_control_group_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "_CGROUP", tmp_path)
    machine = needs.available_memory()  # no files: what the machine has
    (tmp_path / "memory.current").write_text("3000000\n")
    (tmp_path / "memory.stat").write_text("anon 1\nfile 1000000\nshmem 400000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert needs.available_memory() > machine // 2
    (tmp_path / "memory.max").write_text("5000000\n")
    assert needs.available_memory() == 2_600_000
