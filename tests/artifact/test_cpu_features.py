"""CPU features by LLVM's names against Linux's."""

from __future__ import annotations

from pathlib import Path

import pytest

from vamc_py.artifact.cpu import cpu_name, missing_features
from vamc_py.errors import ArtifactError


@pytest.fixture
def cpuinfo(tmp_path: Path) -> Path:
    path = tmp_path / "cpuinfo"
    path.write_text(
        "processor\t: 0\nmodel name\t: A CPU\n"
        "flags\t\t: lm pni sse4_2 avx512f avx512_vnni avx512_bf16 bmi1 amx_int8 abm\n\nprocessor\t: 1\n"
    )
    return path


@pytest.mark.parametrize(
    "name", ["avx512f", "avx512vnni", "avx512bf16", "sse4.2", "sse3", "bmi", "amx-int8", "lzcnt", "64bit", "crc32"]
)
def test_feature_is_found_under_linux_name(cpuinfo: Path, name: str) -> None:
    assert missing_features([name], cpuinfo) == []


def test_missing_features_keep_their_names_and_order(cpuinfo: Path) -> None:
    assert missing_features(["avx512fp16", "avx512f", "avx2", "avx"], cpuinfo) == ["avx512fp16", "avx2", "avx"]


def test_cpu_name(cpuinfo: Path) -> None:
    assert cpu_name(cpuinfo) == "A CPU"


def test_unreadable_cpuinfo_is_an_artifact_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot read this machine's CPU features"):
        missing_features(["avx2"], tmp_path / "none")


def test_this_machine_has_x86_64s_baseline() -> None:
    assert missing_features(["64bit", "sse2", "fxsr", "cx8"]) == []
