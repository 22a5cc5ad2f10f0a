"""CPUs that this machine can stand for, and what their assembly may hold."""

from __future__ import annotations

import re
from typing import Any

import pytest

from vamc_py.artifact.cpu import missing_features
from vamc_py.target.description import TargetDescription, target_for

CPUS = ("x86-64-v3", "x86-64-v4", "alderlake")
"""AVX2 alone, AVX-512 without VNNI, and AVX2 with VNNI; the kernels for this machine have tests of their own."""


def runnable(cpu: str) -> TargetDescription:
    """The target of this name; skips the test where this machine's CPU cannot run its code."""
    target = target_for(cpu, "int8")
    if missing := missing_features(target.features):
        pytest.skip(f"needs a CPU with {', '.join(missing)}")
    return target


def foreign_instructions(assembly: str, target: TargetDescription) -> set[str]:
    """Registers and instructions in an assembly text that the target's CPU does not have."""
    instructions, found = target.instruction_set, set(re.findall(r"%zmm|%k\d|vpdpbusd|vdpbf16ps", assembly))
    allowed: set[str] = {"vpdpbusd"} if instructions.vnni else set()
    if instructions.avx512:
        allowed |= {"%zmm", *(f"%k{number}" for number in range(8))}
    if instructions.bf16:
        allowed.add("vdpbf16ps")
    return found - allowed


def assembly(module: Any) -> str:
    """The assembly of a module that ``support.run_kernel.build_kernel`` built."""
    return str(module.mod.inspect_source("s"))
