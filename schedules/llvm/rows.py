"""Kernels that copy rows by index. Indices are not checked: the runtime checks tokens and rows before a step."""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T
from tvm.tirx import PrimFunc

from vamc_py.schedules.llvm.launch import for_each_row
from vamc_py.schedules.llvm.simd import LANES, lanes


def select_rows(features: int) -> PrimFunc:
    """Arguments x f32[n, features], rows i32[m], out f32[m, features]: out[j] = x[rows[j]]; each row is below n."""
    vectors, whole = features // LANES, features - features % LANES

    @T.prim_func(s_tir=True)
    def kernel(x_: T.handle, rows_: T.handle, out_: T.handle) -> None:
        T.func_attr({"tirx.noalias": True})
        n, m = T.int64(), T.int64()
        x = T.match_buffer(x_, (n, features), "float32")
        rows = T.match_buffer(rows_, (m,), "int32")
        out = T.match_buffer(out_, (m, features), "float32")

        @T.inline
        def row(j: Any) -> None:
            for v in T.serial(vectors):
                out[j, lanes(v * LANES)] = x[rows[j], lanes(v * LANES)]
            for k in T.serial(whole, features):
                out[j, k] = x[rows[j], k]

        for_each_row(m, features, row)

    return kernel


def gather_table(rows: int, features: int) -> PrimFunc:
    """Arguments ids i32[n], table f32[rows, features], out f32[n, features]: out[i] = table[ids[i]]."""
    vectors, whole = features // LANES, features - features % LANES

    @T.prim_func(s_tir=True)
    def kernel(ids_: T.handle, table_: T.handle, out_: T.handle) -> None:
        T.func_attr({"tirx.noalias": True})
        n = T.int64()
        table = T.match_buffer(table_, (rows, features), "float32")
        ids = T.match_buffer(ids_, (n,), "int32")
        out = T.match_buffer(out_, (n, features), "float32")

        @T.inline
        def row(i: Any) -> None:
            for v in T.serial(vectors):
                out[i, lanes(v * LANES)] = table[ids[i], lanes(v * LANES)]
            for k in T.serial(whole, features):
                out[i, k] = table[ids[i], k]

        for_each_row(n, features, row)

    return kernel
