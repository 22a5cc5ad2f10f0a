"""What the compiler knows of the machine that a module is for."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any

import tvm

from vamc_py.artifact.cpu import missing_features
from vamc_py.config.cpus import NATIVE
from vamc_py.errors import UserError
from vamc_py.schedules.llvm.instruction_set import AVX512_FEATURES, InstructionSet
from vamc_py.target import llvm_features

REQUIRED = ("avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe", "popcnt")
"""What every module may use: the level x86-64-v3. LLVM's names, as all features here."""
OPTIONAL = (*AVX512_FEATURES, "avx512vnni", "avxvnni", "avx512bf16")
"""What kernels use where the CPU has it."""
_LEVEL = "x86-64-v3"


@dataclass(frozen=True)
class TargetDescription:
    """A target of the compiler."""

    kind: str  # "llvm", "vacc"
    mcpu: str  # LLVM's name of the CPU
    threads: int
    features: tuple[str, ...]  # instruction sets that the module may use, or, of a built one, uses
    dtype: str  # of the weights: "int8", "fp16", "bf16", "fp32"

    @property
    def cache_dtype(self) -> str:
        """Element type of the KV caches."""
        return "float32" if self.dtype == "fp32" else "float16"

    @property
    def instruction_set(self) -> InstructionSet:
        """What the kernels may choose between."""
        return InstructionSet.of(self.features)

    def tvm_target(self) -> Any:
        """The tvm.target.Target: tuned for `mcpu`, with no instructions but those of `features` and x86-64-v3.

        So what LLVM makes of any code runs wherever the features are.
        """
        changes = llvm_features.changes(self.mcpu, self.features)
        return tvm.target.Target({"kind": "llvm", "mcpu": self.mcpu, "mattr": list(changes), "num-cores": self.threads})

    def using(self, used: Iterable[str]) -> TargetDescription:
        """This target for a module that uses of the optional features only `used`."""
        kept = {*REQUIRED, *used}
        return replace(self, features=tuple(feature for feature in self.features if feature in kept))


def target_for(cpu: str, dtype: str) -> TargetDescription:
    """The target of ``backend.target``: `cpu` is ``native`` or one of ``config.cpus.CPUS``.

    UserError where it is native and this machine's CPU lacks what every kernel needs.
    """
    return this_machine(dtype) if cpu == NATIVE else _describe(cpu, llvm_features.of(cpu), dtype)


def device_host(dtype: str) -> TargetDescription:
    """The vacc target: its kernels are compiled for any host of the level x86-64-v3."""
    return TargetDescription("vacc", _LEVEL, 1, REQUIRED, dtype)


def this_machine(dtype: str) -> TargetDescription:
    """The CPU that the compiler runs on. UserError when it lacks an instruction set that the kernels need."""
    mcpu = str(tvm.get_global_func("target.llvm_get_system_cpu")())
    # What Linux says and not what LLVM knows of the name: a virtual machine may lack what its CPU has.
    if missing := missing_features(REQUIRED):
        raise UserError(
            f"this CPU ({mcpu}) lacks {', '.join(missing)}: the llvm kernels need AVX2, FMA and F16C; "
            "name the CPU to compile for by backend.target, such as --set backend.target=x86-64-v3"
        )
    lacks = missing_features(OPTIONAL)
    return _describe(mcpu, [feature for feature in OPTIONAL if feature not in lacks], dtype)


def _describe(mcpu: str, features: Collection[str], dtype: str) -> TargetDescription:
    instructions = InstructionSet.of(features)
    used = {
        *(AVX512_FEATURES if instructions.avx512 else ()),
        *(["avx512vnni"] if instructions.vnni == "avx512" else []),
        *(["avxvnni"] if instructions.vnni == "avx" else []),
        *(["avx512bf16"] if instructions.bf16 else []),
    }
    chosen = (*REQUIRED, *(feature for feature in OPTIONAL if feature in used))
    return TargetDescription("llvm", mcpu, len(os.sched_getaffinity(0)), chosen, dtype)
