"""House rules that hold for every file of the repository."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from support.project_tree import ROOT, project_files, source_modules

MOST_LINES = 600
# Folders of somebody's machine, and addresses of package registries: neither means anything in another clone.
# Written so that this file does not match.
MACHINE_PATH = re.compile(r"(?<![\w.~$}/-])/" + r"(?:work|tmp|home|root|Users|opt|mnt)/\w")
REGISTRY = re.compile(
    r"index-url|find-links|://[^/\s]*(?:pypi|pythonhosted|conda|npmjs|artifactory|nexus)[^/\s]*", re.I
)
# What imports transformers beside the tests: it runs a checkpoint's own code, and nothing else does.
MAY_IMPORT_TRANSFORMERS = {Path("vamc_py/frontend/remote_code.py")}

PYTHON_FILES = [path for path in project_files() if path.suffix == ".py"]


def text_files() -> list[tuple[Path, str]]:
    read = []
    for path in project_files():
        data = (ROOT / path).read_bytes()
        if b"\0" not in data:
            read.append((path, data.decode()))
    return read


def imported_packages(path: Path) -> set[str]:
    """Top-level names of all import statements of a file, those inside functions included."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def test_the_tree_is_seen() -> None:
    assert Path("vamc_py/cli/__init__.py") in PYTHON_FILES
    assert Path("passes/__init__.py") in PYTHON_FILES
    assert Path("vamc_py/passes/__init__.py") not in PYTHON_FILES  # the link's target counts once


def test_no_file_is_too_long() -> None:
    long = {
        str(path): lines for path in PYTHON_FILES if (lines := (ROOT / path).read_bytes().count(b"\n")) > MOST_LINES
    }
    assert long == {}


def test_every_module_has_a_docstring() -> None:
    without = [str(path) for path in PYTHON_FILES if not ast.get_docstring(ast.parse((ROOT / path).read_text()))]
    assert without == []


@pytest.mark.parametrize("pattern", [MACHINE_PATH, REGISTRY], ids=["machine path", "registry"])
def test_no_file_names_a_machine(pattern: re.Pattern[str]) -> None:
    found = [f"{path}: {match[0]}" for path, text in text_files() for match in pattern.finditer(text)]
    assert [line for line in found if not line.startswith("tests/test_tree.py: ")] == []


def test_only_the_remote_code_imports_transformers() -> None:
    importing = {path for path in source_modules() if "transformers" in imported_packages(path)}
    assert importing <= MAY_IMPORT_TRANSFORMERS


def test_runtime_imports_neither_torch_nor_the_compiler() -> None:
    runtime = [path for path in source_modules() if path.parts[:2] == ("vamc_py", "runtime")]
    assert runtime != []
    assert {str(p): bad for p in runtime if (bad := imported_packages(p) & {"torch", "transformers", "tvm"})} == {}
