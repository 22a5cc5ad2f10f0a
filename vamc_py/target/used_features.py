"""Which of the optional instruction sets the kernels of a module use, by the LLVM intrinsics they call."""

from __future__ import annotations

import re
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

from vamc_py.schedules.llvm.instruction_set import AVX512_FEATURES
from vamc_py.target.description import TargetDescription

_IMPORTED = "pragma_import_llvm"
_LLVM_CALLS = ("tirx.call_llvm_intrin", "tirx.call_llvm_pure_intrin")
_NAME = re.compile(r"llvm\.x86\.[a-z0-9_.]+")


def used_features(module: Any, target: TargetDescription) -> tuple[str, ...]:
    """The features that this module, built for `target`, needs of a CPU, in the order of `target.features`.

    AVX-512 where the target has it at all, as LLVM may use it anywhere; VNNI and BF16 where a kernel does.
    """
    names: set[str] = set()
    for function in module.functions.values():
        if isinstance(function, tirx.PrimFunc):
            names |= _intrinsics(function)
    used = set(AVX512_FEATURES) | {feature for name in names for feature in _features(name, target)}
    return target.using(used).features


def _features(name: str, target: TargetDescription) -> tuple[str, ...]:
    """What an intrinsic needs beside AVX-512."""
    if name.startswith("llvm.x86.avx512bf16."):
        return ("avx512bf16",)
    if name.startswith("llvm.x86.avx512.vpdp"):
        return (f"{target.instruction_set.vnni}vnni",)
    return ()


def _intrinsics(function: tirx.PrimFunc) -> set[str]:
    """The names of the intrinsics of x86 that a kernel calls, itself or in LLVM text that it imports."""
    found: set[str] = set()

    def call(node: tvm.ir.Call) -> None:
        if str(getattr(node.op, "name", "")) in _LLVM_CALLS:
            found.add(str(tvm.get_global_func("target.llvm_get_intrinsic_name")(int(node.args[0]))))

    def attribute(node: tirx.AttrStmt) -> None:
        if str(node.attr_key) == _IMPORTED:
            found.update(_NAME.findall(str(node.value.value)))

    tvm_ffi.structural_walk(function.body, ((tvm.ir.Call, call), (tirx.AttrStmt, attribute)))
    return found
