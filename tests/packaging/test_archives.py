"""What the wheel and the sdist hold."""

from __future__ import annotations

import email
import re
import tarfile
import zipfile
from pathlib import Path

from support.building import build_wheel
from support.project_tree import project_files, source_modules

import vamc_py

COMPILER_ONLY = {"torch", "transformers", "gguf", "safetensors", "huggingface-hub", "ziglang"}


def contents(wheel: Path) -> dict[str, int]:
    """Name and checksum of each file but the metadata."""
    with zipfile.ZipFile(wheel) as archive:
        return {item.filename: item.CRC for item in archive.infolist() if ".dist-info/" not in item.filename}


def installed_path(path: Path) -> str:
    return str(path if path.parts[0] == "vamc_py" else Path("vamc_py") / path)


def test_wheel_holds_every_module_once_and_nothing_else(wheel: Path) -> None:
    page = {str(path) for path in project_files() if path.parent == Path("vamc_py/inspect/report_page")}
    assert "vamc_py/inspect/report_page/page.html" in page
    cards = {str(path) for path in project_files() if path.match("vamc_py/target/vacc/*.yaml")}
    assert "vamc_py/target/vacc/va16.yaml" in cards
    modules = {installed_path(path) for path in source_modules()}
    expected = modules | {"vamc_py/py.typed", "vamc_py/thread_pool.c"} | page | cards
    assert set(contents(wheel)) == expected
    assert "vamc_py/passes/__init__.py" in expected
    assert "vamc_py/schedules/llvm/__init__.py" in expected


def test_wheel_from_the_sdist_is_the_same(wheel: Path, sdist: Path, tmp_path: Path) -> None:
    assert contents(build_wheel(sdist, tmp_path)) == contents(wheel)


def test_sdist_holds_what_builds_and_tests_the_project(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    wanted = [p for p in project_files() if p.suffix == ".py" or p.parts[0] in ("docs", "examples")]
    missing = {str(path) for path in wanted} | {"Makefile", "constraints.txt", "LICENSE", "CHANGELOG.md"}
    assert missing - held == set()


def test_base_requirements_hold_no_compiler(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        [metadata] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        [entry_points] = [name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt")]
        headers = email.message_from_bytes(archive.read(metadata))
        assert "vamc-py = vamc_py.cli:main" in archive.read(entry_points).decode().splitlines()
    assert headers["Version"] == vamc_py.__version__
    assert headers["License-Expression"] == "Apache-2.0"
    base = [line for line in headers.get_all("Requires-Dist", []) if "extra ==" not in line]
    names = {re.split(r"[^\w-]", line)[0].lower() for line in base}
    assert "apache-tvm" in names
    assert names & COMPILER_ONLY == set()
