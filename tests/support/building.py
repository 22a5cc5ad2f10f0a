"""Build and install the project for the packaging tests, from copies, without the network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from support.project_tree import ROOT, project_files

LINKED_PACKAGES = ("passes", "schedules")  # vamc_py/<name> -> ../<name>


def copy_repository(target: Path) -> Path:
    """The repository as a clone would have it, links included; building and installing write into the tree."""
    for path in project_files():
        (target / path.parent).mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, target / path)
    for name in LINKED_PACKAGES:
        (target / "vamc_py" / name).symlink_to(Path("..") / name)
    return target


def build_wheel(source: Path, target: Path) -> Path:
    """Build a wheel from a folder or an sdist with the setuptools that is installed here."""
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(target), str(source))
    [archive] = target.glob("*.whl")
    return archive


def build_sdist(source: Path, target: Path) -> Path:
    """Build the source archive with the build back end itself."""
    code = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    run([sys.executable, "-c", code, str(target)], cwd=source)
    [archive] = target.glob("vamc_py-*.tar.gz")
    return archive


def create_environment(folder: Path) -> Path:
    """A virtual environment that sees the packages installed here, after its own; the value is its Python.

    Editable installs of here it does not see: .pth files do not nest.
    """
    run([sys.executable, "-m", "venv", "--without-pip", str(folder)])
    python = folder / "bin" / "python"
    site_packages = run([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip()
    Path(site_packages, "packages_of_the_tests.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def pip(*arguments: str, python: Path | None = None) -> None:
    """Run pip without the network, for another environment if ``python`` says so."""
    chosen = ["--python", str(python)] if python else []
    flags = ["--disable-pip-version-check", "--no-input", "--quiet"]
    run([sys.executable, "-m", "pip", *chosen, *flags, arguments[0], "--no-index", *arguments[1:]])


def run(command: list[str], cwd: Path | None = None, path: Path | None = None) -> str:
    """Run a program, with ``path`` on its PYTHONPATH, and return its stdout; a failure shows everything it said."""
    environment = {**os.environ, "PYTHONPATH": str(path or "")}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
