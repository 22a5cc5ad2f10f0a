"""mod.so of a runstream: kernels compiled for the host, which computes what the intrinsics are defined to.

`vamc_py.target.vacc.tag` says for which CPU, and why its bits are the same on each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tvm

from vamc_py import _tvm
from vamc_py._link import Link
from vamc_py.schedules.vacc.kernel import DeviceKernel
from vamc_py.target.vacc.tag import vacc_target


def compile_kernels(kernels: Iterable[DeviceKernel]) -> Any:
    """The module of the kernels as functions of the host, each under its name: flat tensors, then ints.

    ValueError where two different kernels have one name.
    """
    functions: dict[str, Any] = {}
    for kernel in kernels:
        if functions.setdefault(kernel.name, kernel.function) is not kernel.function:
            raise ValueError(f"two different kernels are called {kernel.name}")
    target = vacc_target()
    return _tvm.compile_module(tvm.IRModule(dict(sorted(functions.items()))), target)


def export_kernels(kernels: Iterable[DeviceKernel], path: Path, link: Mapping[str, Link]) -> None:
    """Writes the compiled kernels to the shared library `path`; `link` are the options of ``_link.link_options``."""
    compile_kernels(kernels).export_library(str(path), **link)
