"""The files of this repository, with or without git."""

from __future__ import annotations

import subprocess
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SOURCE_FOLDERS = ("vamc_py", "passes", "schedules")


@cache
def project_files() -> tuple[Path, ...]:
    """What is in the repository or would be added to it, relative to its root; no links, no ignored files."""
    if (ROOT / ".git").exists():
        command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        paths = [Path(name) for name in listed.split("\0") if name]
    else:  # an unpacked sdist
        paths = [path.relative_to(ROOT) for path in ROOT.rglob("*") if "__pycache__" not in path.parts]
        paths = [path for path in paths if not any(part.startswith(".") for part in path.parts)]
    return tuple(sorted(p for p in set(paths) if (ROOT / p).is_file() and not _through_link(p)))


def source_modules() -> list[Path]:
    """The Python files of the package, relative to the repository's root."""
    return [path for path in project_files() if path.suffix == ".py" and path.parts[0] in SOURCE_FOLDERS]


def module_name(path: Path) -> str:
    """``passes/raise_linear.py`` is installed as ``vamc_py.passes.raise_linear``, ``vamc_py/cli/__init__.py`` as
    ``vamc_py.cli``."""
    parts = list(path.with_suffix("").parts)
    if parts[0] != "vamc_py":
        parts.insert(0, "vamc_py")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def project_settings() -> dict[str, Any]:
    """pyproject.toml as it reads."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def _through_link(path: Path) -> bool:
    return any((ROOT / part).is_symlink() for part in (path, *path.parents))
