"""What a target's schedules give the compiler for one operator call."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from vamc_py.weights.plan import Step


@dataclass(frozen=True)
class PackedWeight:
    """How a kernel wants one of its weights to lie in memory."""

    shape: tuple[int, ...]
    dtype: str
    step: Step  # from the weight's rows to that layout


@dataclass(frozen=True)
class Kernel:
    """A kernel for a call: its arguments are the call's, in order, then the outputs."""

    name: str  # stem of the symbol
    function: Any  # tvm.tirx.PrimFunc
    packed: Mapping[int, PackedWeight] = field(default_factory=dict)  # by position of the argument
    in_place: tuple[int, ...] = ()  # positions of arguments that the kernel changes
    attributes: Mapping[str, str | int] = field(default_factory=dict)  # of the PrimFunc, for those who measure it


# relax.Call, the CPU features of the target -> the call's kernel, None where there is none
KernelChoice = Callable[[Any, Collection[str]], Kernel | None]
