"""What an int8 KV cache means: how keys and values are rounded into it, and what it says of them.

Before that, keys and queries are mixed: their products stay, and one large feature of a key does not make the others'
steps coarse.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax
from tvm.script import tirx as T

from vamc_py.dialect.registry import shape_of

CACHE_BLOCK = 16
SCALE_ROWS = 4
"""Rows of 16 bytes behind a block's integers: the float32 scales of its 16 positions."""


def mixed_block(dim: int) -> int:
    """Features that are mixed with each other: the largest power of two that divides a head's `dim`."""
    return dim & -dim


def mixed(builder: Any, x: Any, scale: float) -> Any:
    """The Hadamard transform of each block of features of x f32 [n, H, d], times `scale`: y[i] = scale * sum of
    (-1)**popcount(i & j) * x[j]."""
    dim = int(shape_of(x)[2])
    size = mixed_block(dim)
    matrix = np.array([[1.0]])
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    whole = np.kron(np.eye(dim // size), matrix * scale).astype(np.float32)
    return builder.emit(relax.op.matmul(x, relax.const(whole)))


def through_int8(builder: Any, k: Any, v: Any, places: list[Any], caches: list[Any]) -> tuple[list[Any], list[Any]]:
    """(k and v as the caches give them back, both caches in float32) once k and v are written into `caches`.

    k, already mixed, and v f32 [n, KV, d]; `places` are positions, slots and pages; `caches` int8
    [pages, KV, blocks, d + 4, 16], changed in place -> f32 [n, KV, d] each, and f32 [pages, KV, blocks, d, 16] and
    [pages, KV, blocks, 16, d].
    """
    kv_heads, dim = (int(extent) for extent in shape_of(k)[1:])
    rounded, floats = [], []
    for x, cache, keys in zip((k, v), caches, (True, False), strict=True):
        write = builder.add_func(_write(kv_heads, dim, keys), "int8_cache_write")
        written = builder.emit(relax.op.call_tir_inplace(write, [x, *places, cache], [4, -1], [cache.ty, x.ty]))
        rounded.append(builder.emit(relax.TupleGetItem(written, 1)))
        pages, _, blocks = shape_of(cache)[:3]
        ends = (dim, CACHE_BLOCK) if keys else (CACHE_BLOCK, dim)
        read = builder.add_func(_read(kv_heads, dim, keys), "int8_cache_read")
        kind = relax.TensorType([pages, kv_heads, blocks, *ends], "float32")
        floats.append(builder.emit(relax.call_tir(read, [relax.TupleGetItem(written, 0)], kind)))
    return rounded, floats


def _write(kv_heads: int, dim: int, keys: bool) -> Any:
    """round(x / scale) half to even, scale = max|x| / 127 of a token's head (of numbers below 1e-30: zeros), into the
    cache; and what that gives."""

    def row(lane: Any, d: Any) -> Any:
        return d if keys else (lane * dim + d) // CACHE_BLOCK

    def column(lane: Any, d: Any) -> Any:
        return lane if keys else (lane * dim + d) % CACHE_BLOCK

    @T.prim_func  # type: ignore[untyped-decorator]
    def write(
        x_handle: T.handle,
        positions_handle: T.handle,
        slots_handle: T.handle,
        pages_handle: T.handle,
        cache_handle: T.handle,
        out_handle: T.handle,
    ) -> None:
        T.func_attr({"op_pattern": 8})
        n, s, p, pages_total, blocks = T.int64(), T.int64(), T.int64(), T.int64(), T.int64()
        x = T.match_buffer(x_handle, (n, kv_heads, dim), "float32")
        positions = T.match_buffer(positions_handle, (n,), "int32")
        slots = T.match_buffer(slots_handle, (n,), "int32")
        pages = T.match_buffer(pages_handle, (s, p), "int32")
        cache = T.match_buffer(cache_handle, (pages_total, kv_heads, blocks, dim + SCALE_ROWS, CACHE_BLOCK), "int8")
        out = T.match_buffer(out_handle, (n, kv_heads, dim), "float32")
        scale = T.alloc_buffer((1,), "float32")
        whole = T.alloc_buffer((1,), "float32")
        for i, h in T.grid(n, kv_heads):
            at = T.cast(positions[i], "int64")
            page = pages[slots[i], at // (blocks * CACHE_BLOCK)]
            scale[0] = T.float32(0)
            for d in range(dim):
                scale[0] = T.max(scale[0], T.abs(x[i, h, d]))
            scale[0] = T.Select(scale[0] < T.float32(1e-30), T.float32(0), scale[0] * T.float32(1 / 127))
            for b in range(4):
                cache[
                    page,
                    h,
                    at // CACHE_BLOCK % blocks,
                    dim + at % CACHE_BLOCK // SCALE_ROWS,
                    at % SCALE_ROWS * 4 + b,
                ] = T.cast(T.shift_right(T.reinterpret("int32", scale[0]), 8 * b), "int8")
            for d in range(dim):
                whole[0] = T.float32(0)
                if scale[0] > T.float32(0):
                    whole[0] = T.nearbyint(x[i, h, d] / scale[0])
                cache[
                    page,
                    h,
                    at // CACHE_BLOCK % blocks,
                    row(at % CACHE_BLOCK, d),
                    column(at % CACHE_BLOCK, d),
                ] = T.cast(whole[0], "int8")
                out[i, h, d] = whole[0] * scale[0]

    return write


def _read(kv_heads: int, dim: int, keys: bool) -> Any:
    """The cache in float32; whatever comes out for positions that were never written."""

    def row(lane: Any, d: Any) -> Any:
        return d if keys else (lane * dim + d) // CACHE_BLOCK

    def column(lane: Any, d: Any) -> Any:
        return lane if keys else (lane * dim + d) % CACHE_BLOCK

    def outer(lane: Any, d: Any) -> Any:
        return d if keys else lane

    def inner(lane: Any, d: Any) -> Any:
        return lane if keys else d

    ends = (dim, CACHE_BLOCK) if keys else (CACHE_BLOCK, dim)

    @T.prim_func  # type: ignore[untyped-decorator]
    def read(cache_handle: T.handle, out_handle: T.handle) -> None:
        T.func_attr({"op_pattern": 8})
        pages_total, blocks = T.int64(), T.int64()
        cache = T.match_buffer(cache_handle, (pages_total, kv_heads, blocks, dim + SCALE_ROWS, CACHE_BLOCK), "int8")
        out = T.match_buffer(out_handle, (pages_total, kv_heads, blocks, *ends), "float32")
        bits = T.alloc_buffer((1,), "int32")
        for page, h, block, lane in T.grid(pages_total, kv_heads, blocks, CACHE_BLOCK):
            bits[0] = 0
            for b in range(4):
                bits[0] = bits[0] | T.shift_left(
                    T.cast(cache[page, h, block, dim + lane // SCALE_ROWS, lane % SCALE_ROWS * 4 + b], "int32") & 255,
                    8 * b,
                )
            for d in range(dim):
                out[page, h, block, outer(lane, d), inner(lane, d)] = T.cast(
                    cache[page, h, block, row(lane, d), column(lane, d)], "float32"
                ) * T.reinterpret("float32", bits[0])

    return read
