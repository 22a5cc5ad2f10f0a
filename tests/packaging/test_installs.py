"""A wheel and an editable install, used from elsewhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.building import copy_repository, create_environment, pip, run
from support.project_tree import ROOT

import vamc_py

SHOW_ORIGINS = """
import vamc_py, vamc_py.passes, vamc_py.schedules.llvm
for module in (vamc_py, vamc_py.passes, vamc_py.schedules.llvm):
    print(module.__name__, module.__file__)
"""


def origins(printed: str) -> dict[str, Path]:
    return {name: Path(file) for name, file in (line.split(" ", 1) for line in printed.splitlines())}


def test_wheel_install(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    pip("install", "--no-deps", "--target", str(target), str(wheel))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert origins(run([sys.executable, "-c", SHOW_ORIGINS], cwd=elsewhere, path=target)) == {
        "vamc_py": target / "vamc_py" / "__init__.py",
        "vamc_py.passes": target / "vamc_py" / "passes" / "__init__.py",
        "vamc_py.schedules.llvm": target / "vamc_py" / "schedules" / "llvm" / "__init__.py",
    }
    assert not (target / "passes").exists()
    assert not (target / "schedules").exists()
    said = run([sys.executable, str(target / "bin" / "vamc-py"), "--version"], cwd=elsewhere, path=target)
    assert said == f"vamc-py {vamc_py.__version__}\n"


def test_editable_install_follows_the_source(tmp_path: Path) -> None:
    python = create_environment(tmp_path / "environment")
    repository = copy_repository(tmp_path / "repository")
    flags = ["--no-deps", "--no-build-isolation", "--ignore-installed"]
    pip("install", *flags, "--editable", str(repository), python=python)

    found = origins(run([str(python), "-c", SHOW_ORIGINS], cwd=tmp_path))
    assert found["vamc_py"] == repository / "vamc_py" / "__init__.py"
    assert all(file.is_relative_to(repository) for file in found.values())
    said = run([str(python.parent / "vamc-py"), "--version"], cwd=tmp_path)
    assert said == f"vamc-py {vamc_py.__version__}\n"

    (repository / "passes" / "a_new_one.py").write_text("WRITTEN = 'after the install'\n")
    code = "from vamc_py.passes.a_new_one import WRITTEN; print(WRITTEN)"
    assert run([str(python), "-c", code], cwd=tmp_path) == "after the install\n"


@pytest.mark.parametrize("name", ["passes", "schedules"])
def test_bare_names_are_refused(name: str) -> None:
    """In the repository's root they are importable folders; their objects would then exist twice."""
    done = subprocess.run([sys.executable, "-c", f"import {name}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"ImportError: import the {name} as vamc_py.{name}" in done.stderr
