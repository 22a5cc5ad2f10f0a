"""What the runtime alone is installed without."""

from __future__ import annotations

from importlib.util import find_spec

from vamc_py.errors import UserError

_COMPILE = ("torch", "gguf", "safetensors", "huggingface_hub")  # the extra "compile" of pyproject.toml


def require_compiler() -> None:
    """UserError where the packages are missing that only compiling needs."""
    missing = _missing(_COMPILE)
    if missing:
        raise UserError(
            f"compiling needs {', '.join(missing)}, which running a compiled model does not; not installed here: "
            "pip install 'vamc-py[compile]'"
        )


def require_onnx() -> None:
    """UserError where the package is missing that reads and writes ONNX."""
    if _missing(("onnx",)):
        raise UserError("ONNX needs the package onnx, which is not installed here: pip install 'vamc-py[onnx]'")


def _missing(names: tuple[str, ...]) -> list[str]:
    return [name for name in names if find_spec(name) is None]
