"""The instruction sets that kernels are written with: what a kernel factory may choose between.

Every kernel needs AVX2, FMA and F16C (the level x86-64-v3). What is more than that stands in an ``InstructionSet``.
The vectors of a kernel have 16 lanes everywhere: without AVX-512, LLVM makes two registers of each.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, TypeAlias

Vnni: TypeAlias = Literal["avx512", "avx"] | None

AVX512_FEATURES = ("avx512f", "avx512bw", "avx512dq", "avx512vl")


@dataclass(frozen=True)
class InstructionSet:
    """What the kernels may use beside AVX2, FMA and F16C."""

    avx512: bool  # 32 registers of 64 bytes (F, BW, DQ and VL); without it 16 of 32 bytes
    vnni: Vnni  # vpdpbusd on registers of 64 bytes ("avx512"), of 32 ("avx"), or not at all
    bf16: bool  # vdpbf16ps

    def __post_init__(self) -> None:
        if not self.avx512 and (self.vnni == "avx512" or self.bf16):
            raise ValueError(f"{self}: AVX-512's VNNI and BF16 need AVX-512 itself")

    @staticmethod
    def of(features: Collection[str]) -> InstructionSet:
        """What a CPU with these features has; LLVM's names, such as ``avx512vnni``."""
        avx512 = all(feature in features for feature in AVX512_FEATURES)
        vnni: Vnni = "avx512" if avx512 and "avx512vnni" in features else "avx" if "avxvnni" in features else None
        return InstructionSet(avx512, vnni, avx512 and "avx512bf16" in features)


_USUAL = InstructionSet(avx512=True, vnni="avx512", bf16=True)
_CURRENT = ContextVar("instruction_set", default=_USUAL)


def current() -> InstructionSet:
    """What kernels are now written for: AVX-512 with VNNI and BF16 unless `using` says otherwise."""
    return _CURRENT.get()


@contextmanager
def using(instruction_set: InstructionSet) -> Iterator[None]:
    """Kernels made inside are written for `instruction_set`."""
    token = _CURRENT.set(instruction_set)
    try:
        yield
    finally:
        _CURRENT.reset(token)
