"""What the compiler knows of the machine that a module is for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import tvm

from vamc_py.errors import UserError

# What the kernels of schedules/llvm use without asking; a CPU without one of them would die on an illegal instruction.
REQUIRED_LLVM_FEATURES = ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni", "f16c", "fma")


@dataclass(frozen=True)
class TargetDescription:
    """A target of the compiler."""

    kind: str  # "llvm"
    mcpu: str  # LLVM's name of the CPU
    threads: int
    features: tuple[str, ...]  # instruction sets the module needs
    dtype: str  # of the weights: "int8", "fp16", "bf16", "fp32"

    @property
    def cache_dtype(self) -> str:
        """Element type of the KV caches."""
        return "float32" if self.dtype == "fp32" else "float16"

    def tvm_target(self) -> Any:
        """The tvm.target.Target."""
        return tvm.target.Target({"kind": "llvm", "mcpu": self.mcpu, "num-cores": self.threads})


def this_machine(dtype: str) -> TargetDescription:
    """The CPU that the compiler runs on. UserError when it lacks an instruction set that the kernels need."""
    target = tvm.target.Target.from_device("cpu")
    mcpu = str(target.attrs["mcpu"])
    has = tvm.get_global_func("target.target_has_feature")
    missing = [name for name in REQUIRED_LLVM_FEATURES if not has(name, target)]
    if missing:
        raise UserError(
            f"this CPU ({mcpu}) lacks {', '.join(missing)}: the llvm kernels need AVX-512 with VNNI; "
            "compile on a machine that has it"
        )
    return TargetDescription("llvm", mcpu, len(os.sched_getaffinity(0)), REQUIRED_LLVM_FEATURES, dtype)
