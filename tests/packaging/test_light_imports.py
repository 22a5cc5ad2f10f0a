"""What runs and what parses needs no compiler: the base install is enough, and nothing heavy is loaded."""

from __future__ import annotations

import sys

import pytest
from support.building import run
from support.project_tree import module_name, source_modules

LIGHT_PACKAGES = ("artifact", "cli", "config", "evaluation", "runstream", "runtime")
EXTRAS = ("torch", "transformers", "gguf", "safetensors", "huggingface_hub", "onnx", "ziglang")  # of pyproject.toml

IMPORT_ALL = """
import importlib, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
for name in {names!r}:
    importlib.import_module(name)
print(*sorted({{name.partition(".")[0] for name in sys.modules}}))
"""


def modules_of(package: str) -> list[str]:
    names = [module_name(path) for path in source_modules() if path.parts[:2] == ("vamc_py", package)]
    return [name for name in names if not name.endswith("__main__")]


def loaded_packages(package: str, absent: tuple[str, ...]) -> set[str]:
    """Import every module of a package where ``absent`` cannot be imported; the top-level packages then loaded."""
    return set(run([sys.executable, "-c", IMPORT_ALL.format(absent=absent, names=modules_of(package))]).split())


@pytest.mark.parametrize("package", LIGHT_PACKAGES)
def test_base_install_is_enough(package: str) -> None:
    assert "vamc_py" in loaded_packages(package, absent=EXTRAS)


@pytest.mark.parametrize("package", LIGHT_PACKAGES)
def test_no_compiler_is_loaded(package: str) -> None:
    assert loaded_packages(package, absent=()) & {*EXTRAS, "tvm"} == set()


def test_calibration_needs_torch_alone() -> None:
    assert "torch" in loaded_packages("quant", absent=("tvm", "transformers", "huggingface_hub"))
