"""``Target("vacc")``: a tag of TVM's llvm target, registered where this module is imported.

An own kind of target would take C++ that is built against TVM's headers, and wheels have none. A tag takes none, and
says what is true: the kernels of the device model run on the host. A pass or schedule knows the target by its key
``vacc``; TVM leaves its tag empty.

The code is for any x86-64 CPU of level 3 (AVX2), and without fused multiply-add, which LLVM would form where it
pleases: a product is rounded, then the sum, as the kernels are written, so the bits are the same on every machine, and
those of plain numpy.
"""

from __future__ import annotations

from typing import Any

from tvm.target import Target, register_tag

NAME = "vacc"

register_tag(
    NAME, {"kind": "llvm", "keys": ["vacc", "cpu"], "mcpu": "x86-64-v3", "mattr": ["-fma"]}, override=True
)  # override: a second import of a reloaded module


def vacc_target() -> Any:
    """The tvm.target.Target of the host code of the device model."""
    return Target(NAME)
