"""What LLVM may use for a CPU, and how to keep it to what the kernels are written with."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import cache

import tvm

_LEVEL = "x86-64-v3"
_TUNING = re.compile(r"(fast|slow|prefer|false-deps|no-bypass|tuning|allow|idivq-to)-|(macro|branch)fusion|vzeroupper")
"""Features by which LLVM chooses between instructions that every CPU has."""


@cache
def of(mcpu: str) -> frozenset[str]:
    """The features of a CPU by LLVM's names, those that only steer its choices left out."""
    target = tvm.target.Target({"kind": "llvm", "mcpu": mcpu})
    found = (str(feature) for feature in tvm.get_global_func("target.llvm_get_cpu_features")(target))
    return frozenset(feature for feature in found if not _TUNING.match(feature))


def changes(mcpu: str, features: Collection[str]) -> tuple[str, ...]:
    """LLVM's ``mattr``: from what `mcpu` has to `features` and no more than the level x86-64-v3 beside them."""
    added = sorted(set(features) - of(mcpu))
    removed = sorted(of(mcpu) - of(_LEVEL) - set(features))
    return (*(f"+{feature}" for feature in added), *(f"-{feature}" for feature in removed))
