"""TVM's runtime library, without TVM's compiler and without torch.

``import tvm`` loads the compiler and takes about a second; running a module needs only ``tvm_ffi`` and
``libtvm_runtime.so``. ``tvm_ffi`` imports torch where it is installed, which costs a second and 226 MB more.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vamc_py.errors import UserError

_NOISE = b"Scope Loaded:"  # TVM logs each memory scope of a module as a warning


@functools.cache
def load() -> Any:
    """The module ``tvm_ffi``, with TVM's runtime library loaded. UserError where apache-tvm is not installed."""
    library = _runtime_library()
    tvm_ffi = _import_without_torch("tvm_ffi")
    ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)  # global: the modules that are loaded later link against it
    return tvm_ffi


def _runtime_library() -> Path:
    spec = importlib.util.find_spec("tvm")  # finds, does not import
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "lib" / "libtvm_runtime.so"
        if path.is_file():
            return path
    raise UserError("TVM's runtime library is not installed: pip install apache-tvm==0.27.0.post1")


def _import_without_torch(name: str) -> Any:
    """Import a module that imports torch only if it can."""
    if "torch" in sys.modules or name in sys.modules:
        return importlib.import_module(name)
    sys.modules["torch"] = None  # type: ignore[assignment]  # makes `import torch` raise ImportError
    try:
        return importlib.import_module(name)
    finally:
        del sys.modules["torch"]


def load_module(path: Path) -> Any:
    """The library ``path`` as a tvm_ffi module; its functions are its items."""
    # dlopen takes a path that it knows for the library that it has loaded from there, even where another file has
    # taken its place (an artifact compiled anew). Under a name of its own the file itself decides.
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / path.name
        link.symlink_to(path.absolute())
        return load().load_module(str(link))


def load_executable(library: Any) -> Any:
    """The Relax virtual machine inside a library of ``load_module``, on the CPU; its functions are its items."""
    with _without_noise():
        executable = library["vm_load_executable"]()
    cpu, device_id, pooled = 1, 0, 2  # the machine's device, then the host's, which the machine wants last
    executable["vm_initialization"](cpu, device_id, pooled, cpu, device_id, pooled)
    return executable


@contextmanager
def _without_noise() -> Iterator[None]:
    """Drop TVM's lines about memory scopes from stderr, and pass on every other line."""
    with tempfile.TemporaryFile() as held:
        stderr = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            held.seek(0)
            for line in held:
                if _NOISE not in line:
                    os.write(stderr, line)
            os.close(stderr)
