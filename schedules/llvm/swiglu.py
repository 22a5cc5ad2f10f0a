"""SwiGLU over token rows: silu(gate) * up (see `prologue`)."""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T
from tvm.tirx import PrimFunc

from vamc_py.schedules.llvm.launch import for_each_row
from vamc_py.schedules.llvm.prologue import GatedRows, write_row


def swiglu(features: int, merged: bool) -> PrimFunc:
    """Arguments gate_up f32[n, 2 * features] (gates first) if `merged`, else gate and up f32[n, features]; then out.

    out f32[n, features] = silu(gate) * up.
    """

    @T.prim_func(s_tir=True)
    def merged_kernel(gate_up_: T.handle, out_: T.handle) -> None:
        T.func_attr({"tirx.noalias": True})
        n = T.int64()
        gate_up = T.match_buffer(gate_up_, (n, 2 * features), "float32")
        out = T.match_buffer(out_, (n, features), "float32")

        @T.inline
        def row(i: Any) -> None:
            write_row(GatedRows(gate_up, 0, gate_up, features, features), i, out, i)

        for_each_row(n, features, row)

    @T.prim_func(s_tir=True)
    def kernel(gate_: T.handle, up_: T.handle, out_: T.handle) -> None:
        T.func_attr({"tirx.noalias": True})
        n = T.int64()
        gate = T.match_buffer(gate_, (n, features), "float32")
        up = T.match_buffer(up_, (n, features), "float32")
        out = T.match_buffer(out_, (n, features), "float32")

        @T.inline
        def row(i: Any) -> None:
            write_row(GatedRows(gate, 0, up, 0, features), i, out, i)

        for_each_row(n, features, row)

    return merged_kernel if merged else kernel
