"""What ``backend.target`` takes on llvm: LLVM's names of CPUs with AVX2, FMA and F16C, which the kernels need."""

from __future__ import annotations

from difflib import get_close_matches

NATIVE = "native"

CPUS = (
    "x86-64-v3", "x86-64-v4",
    "haswell", "broadwell", "skylake", "skylake-avx512", "cascadelake", "cooperlake", "cannonlake", "knl", "knm",
    "icelake-client", "icelake-server", "tigerlake", "rocketlake", "alderlake", "raptorlake", "meteorlake",
    "sapphirerapids", "emeraldrapids", "graniterapids", "graniterapids-d", "diamondrapids",
    "arrowlake", "arrowlake-s", "lunarlake", "pantherlake", "wildcatlake", "novalake",
    "gracemont", "sierraforest", "grandridge", "clearwaterforest",
    "bdver4", "znver1", "znver2", "znver3", "znver4", "znver5",
)  # fmt: skip
"""Of LLVM 22 (a test compares); its second spellings of some names, such as ``skx``, are left out."""


def cpu_fault(name: str) -> str | None:
    """What is wrong with the name of a CPU; None for one of CPUS and ``native``."""
    known = (NATIVE, *CPUS)
    if name in known:
        return None
    near = get_close_matches(name, known, n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{name!r} is no CPU with AVX2, FMA and F16C that this version knows; known are {', '.join(known)}{hint}"
