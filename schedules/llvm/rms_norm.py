"""RMSNorm over token rows. Directly written TIR: explicit accumulators, which LLVM may not make of one float sum."""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T
from tvm.tirx import PrimFunc

from vamc_py.schedules.llvm.launch import for_each_row
from vamc_py.schedules.llvm.simd import LANES, fma, fold_sum, lanes, load, splat, store

_CHAINS = 4
"""Independent sums, for the latency of an FMA is four cycles."""


@T.inline
def sum_of_squares(features: int, x: Any, index: Any, start: Any, sums: Any) -> None:
    """Leave the sum of x[*index, start : start + features]**2 in sums[0]; `sums` is a local f32[4 * 16]."""
    for c in T.unroll(_CHAINS):
        store(sums, splat(0.0), c * LANES)
    for v in T.serial(features // LANES // _CHAINS):
        for c in T.unroll(_CHAINS):
            value = T.bind(load(x, *index, start + (v * _CHAINS + c) * LANES))
            store(sums, fma(value, value, load(sums, c * LANES)), c * LANES)
    for v in T.unroll(features // LANES // _CHAINS * _CHAINS, features // LANES):
        value = T.bind(load(x, *index, start + v * LANES))
        store(sums, fma(value, value, load(sums, 0)), 0)
    pairs = T.bind(load(sums, 0) + load(sums, LANES))
    total = fold_sum(pairs + (load(sums, 2 * LANES) + load(sums, 3 * LANES)))
    sums[0] = total
    for j in T.serial(features - features % LANES, features):
        sums[0] = sums[0] + x[*index, start + j] * x[*index, start + j]


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
            sums = T.alloc_buffer((_CHAINS * LANES,), "float32")
            sum_of_squares(features, x, (i,), 0, sums)
            factor = T.bind(T.float32(1) / T.sqrt(sums[0] * T.float32(1 / features) + T.float32(eps)))
            for v in T.serial(features // LANES):
                y[i, lanes(v * LANES)] = x[i, lanes(v * LANES)] * splat(factor) * w[lanes(v * LANES)]
            for j in T.serial(features - features % LANES, features):
                y[i, j] = x[i, j] * factor * w[j]

        for_each_row(n, features, row)

    return kernel
