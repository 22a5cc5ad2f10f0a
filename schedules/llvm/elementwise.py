"""Elementwise kernels over token rows. Directly written TIR: one loop, which LLVM and `T.vectorized` finish."""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T
from tvm.tirx import PrimFunc

from vamc_py.schedules.llvm.launch import for_each_row
from vamc_py.schedules.llvm.simd import LANES, lanes


def add(features: int) -> PrimFunc:
    """Arguments x f32[n, features], y f32[n, features], out f32[n, features]: out = x + y."""
    vectors, whole = features // LANES, features - features % LANES

    @T.prim_func(s_tir=True)
    def kernel(x_: T.handle, y_: T.handle, out_: T.handle) -> None:
        T.func_attr({"tirx.noalias": True})
        n = T.int64()
        x = T.match_buffer(x_, (n, features), "float32")
        y = T.match_buffer(y_, (n, features), "float32")
        out = T.match_buffer(out_, (n, features), "float32")

        @T.inline
        def row(i: Any) -> None:
            for v in T.serial(vectors):
                out[i, lanes(v * LANES)] = x[i, lanes(v * LANES)] + y[i, lanes(v * LANES)]
            for j in T.serial(whole, features):
                out[i, j] = x[i, j] + y[i, j]

        for_each_row(n, features, row)

    return kernel
