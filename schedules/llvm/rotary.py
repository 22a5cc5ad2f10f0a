"""Rotary position embedding, Hugging Face style: the halves of a head are rotated against each other.

Directly written TIR: the two halves are two plain vector loops, and the angles are scalar calls of libm, once a step.
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T
from tvm.tirx import PrimFunc

from vamc_py.schedules.llvm.launch import for_each_row
from vamc_py.schedules.llvm.simd import LANES, lanes


def _check_head_dim(head_dim: int) -> None:
    if head_dim <= 0 or head_dim % 2:
        raise ValueError(f"a rotary head has an even number of features; head_dim is {head_dim}")


def rotary(heads: int, head_dim: int) -> PrimFunc:
    """Arguments x f32[n, heads, head_dim], cos and sin f32[n, head_dim], y f32[n, heads, head_dim].

    y = x * cos + rotate_half(x) * sin with rotate_half(x) = concat(-x[half:], x[:half]).
    """
    _check_head_dim(head_dim)
    half = head_dim // 2
    width = next(w for w in (LANES, LANES // 2, 2, 1) if half % w == 0)

    def piece(start: Any) -> Any:
        return lanes(start, width) if width > 1 else start

    @T.prim_func(s_tir=True)
    def kernel(x_: T.handle, cos_: T.handle, sin_: T.handle, y_: T.handle) -> None:
        T.func_attr({"tirx.noalias": True})
        n = T.int64()
        x = T.match_buffer(x_, (n, heads, head_dim), "float32")
        cos = T.match_buffer(cos_, (n, head_dim), "float32")
        sin = T.match_buffer(sin_, (n, head_dim), "float32")
        y = T.match_buffer(y_, (n, heads, head_dim), "float32")

        @T.inline
        def row(i: Any) -> None:
            for h, v in T.grid(heads, half // width):
                low, high = T.meta_var(piece(v * width)), T.meta_var(piece(half + v * width))
                y[i, h, low] = x[i, h, low] * cos[i, low] - x[i, h, high] * sin[i, low]
                y[i, h, high] = x[i, h, high] * cos[i, high] + x[i, h, low] * sin[i, high]

        for_each_row(n, heads * head_dim, row)

    return kernel


def rotary_angles(head_dim: int, scaling: float = 1.0) -> PrimFunc:
    """Arguments positions i32[n], inv_freq f32[head_dim / 2], cos and sin f32[n, head_dim] (halves repeated).

    The angle positions * inv_freq is rounded to float32, as the models were trained; `scaling` multiplies both outputs.
    """
    _check_head_dim(head_dim)
    half = head_dim // 2

    @T.prim_func(s_tir=True)
    def kernel(positions_: T.handle, inv_freq_: T.handle, cos_: T.handle, sin_: T.handle) -> None:
        T.func_attr({"tirx.noalias": True})
        n = T.int64()
        positions = T.match_buffer(positions_, (n,), "int32")
        inv_freq = T.match_buffer(inv_freq_, (half,), "float32")
        cos = T.match_buffer(cos_, (n, head_dim), "float32")
        sin = T.match_buffer(sin_, (n, head_dim), "float32")

        for i in T.parallel(n):
            for j in T.serial(half):
                angle = T.bind(T.cast(positions[i], "float32") * inv_freq[j])
                c = T.bind(T.cos(angle) * T.float32(scaling))
                s = T.bind(T.sin(angle) * T.float32(scaling))
                cos[i, j] = c
                cos[i, half + j] = c
                sin[i, j] = s
                sin[i, half + j] = s

    return kernel
