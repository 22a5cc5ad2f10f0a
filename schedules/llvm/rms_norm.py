"""RMSNorm over token rows (see `prologue`)."""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T
from tvm.tirx import PrimFunc

from vamc_py.schedules.llvm.launch import for_each_row
from vamc_py.schedules.llvm.prologue import NormalizedRows, write_row


def rms_norm(features: int, eps: float) -> PrimFunc:
    """Arguments x f32[n, features], w f32[features], y f32[n, features]: y = x / sqrt(mean(x * x) + eps) * w."""

    @T.prim_func(s_tir=True)
    def kernel(x_: T.handle, w_: T.handle, y_: T.handle) -> None:
        T.func_attr({"tirx.noalias": True})
        n = T.int64()
        x = T.match_buffer(x_, (n, features), "float32")
        w = T.match_buffer(w_, (features,), "float32")
        y = T.match_buffer(y_, (n, features), "float32")

        @T.inline
        def row(i: Any) -> None:
            write_row(NormalizedRows(x, w, eps, features), i, y, i)

        for_each_row(n, features, row)

    return kernel
