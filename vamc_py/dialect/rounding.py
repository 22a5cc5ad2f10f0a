"""Rounding as the references do it."""

from __future__ import annotations

from typing import Any

from tvm import tirx


def to_bfloat16(value: Any) -> Any:
    """The bfloat16 nearest to a finite float32, half to even, as float32: a TIR expression of one.

    TVM computes in float32 where an expression says bfloat16, and so drops a cast there and back; hence the bits.
    """
    bits = tirx.reinterpret("uint32", value)
    half = tirx.const(0x7FFF, "uint32") + (bits >> tirx.const(16, "uint32") & tirx.const(1, "uint32"))
    return tirx.reinterpret("float32", bits + half & tirx.const(0xFFFF0000, "uint32"))
