"""From the merged projection of an attention to its heads: norm, rotation, and the layouts of the products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm.script import tirx as T

from vamc_py.runstream.program import ROW_MAJOR_BLOCK
from vamc_py.schedules.vacc.intrinsics import saturate, vector
from vamc_py.schedules.vacc.kernel import Buffer, DeviceKernel, define, factory, symbol
from vamc_py.schedules.vacc.loops import Expr, bound, serial, share
from vamc_py.schedules.vacc.vector_math import rms_factor


@factory
def head_prep(
    tokens: int,
    heads: int,
    kv_heads: int,
    dim: int,
    *,
    qkv_stride: int | None = None,
    norms: bool = False,
    eps: float = 0.0,
    cores: int,
) -> DeviceKernel:
    """Arguments qkv f32 [tokens, (heads + 2 kv_heads) * dim], rows `qkv_stride` elements apart (None: as many as they
    have), q heads first, then k, then v; [q_norm, k_norm f32 [dim]]; cos, sin f32 [tokens, dim]; and the results, f16,
    rounded once, saturating: q [heads, tokens, dim], v [kv_heads, tokens, dim], and k [kv_heads, tokens / 16, dim, 16],
    as it lies in the cache, or of one token [kv_heads, dim]. They come in the order q, k, v.

    Heads of q and k are normalised as ``R.vamc.rms_norm`` does it, where there are norms, and turned as
    ``R.vamc.rotary``: x * cos + concat(-x[dim / 2:], x[:dim / 2]) * sin. ValueError where `tokens` is neither 1 nor a
    multiple of 16, or `dim` is odd.

    Instructions an element: of q and k 4 for the norm, 3 for the rotation, 1 for float16; of v 1.
    """
    width = (heads + 2 * kv_heads) * dim
    stride, half = qkv_stride or width, dim // 2
    if tokens != 1 and tokens % ROW_MAJOR_BLOCK:
        raise ValueError(f"keys lie in blocks of {ROW_MAJOR_BLOCK} tokens; {tokens} is neither 1 nor a multiple of it")
    if dim % 2 or stride < width:
        raise ValueError(f"no rotation turns heads of {dim} features in rows of {width} that lie {stride} apart")

    def k_place(head: Expr, token: Expr, j: Expr) -> Expr:
        if tokens == 1:
            return head * dim + j
        blocks = tokens // ROW_MAJOR_BLOCK
        block, inside = token // ROW_MAJOR_BLOCK, token % ROW_MAJOR_BLOCK
        return ((head * blocks + block) * dim + j) * ROW_MAJOR_BLOCK + inside

    def row_place(head: Expr, token: Expr, j: Expr) -> Expr:
        return (head * tokens + token) * dim + j

    def emit(core: Expr, qkv: Any, *rest: Any) -> None:
        q_norm, k_norm = rest[:2] if norms else (None, None)
        cos, sin, q, k, v = rest[-5:]

        def turn(first_head: int, norm: Any, out: Any, place: Callable[..., Expr], head: Expr, token: Expr) -> None:
            begin = bound("begin", token * stride + (first_head + head) * dim)
            factor = rms_factor(dim, lambda j: qkv[begin + j], eps) if norm is not None else None

            def x(j: Expr) -> Expr:
                return qkv[begin + j] if factor is None else qkv[begin + j] * factor * norm[j]

            at = token * dim
            with serial(half, "j") as j:
                low = x(j) * cos[at + j] - x(half + j) * sin[at + j]
                T.buffer_store(out, saturate(low), [place(head, token, j)])
            with serial(half, "j") as j:
                high = x(half + j) * cos[at + half + j] + x(j) * sin[at + half + j]
                T.buffer_store(out, saturate(high), [place(head, token, half + j)])

        def copy(head: Expr, token: Expr) -> None:
            begin = bound("begin", token * stride + (heads + kv_heads + head) * dim)
            with serial(dim, "j") as j:
                T.buffer_store(v, saturate(qkv[begin + j]), [row_place(head, token, j)])

        for_each_head(core, heads, 4 + 4 * norms, lambda *at: turn(0, q_norm, q, row_place, *at))
        for_each_head(core, kv_heads, 4 + 4 * norms, lambda *at: turn(heads, k_norm, k, k_place, *at))
        for_each_head(core, kv_heads, 1, copy)

    def for_each_head(core: Expr, count: int, instructions: int, one: Callable[[Expr, Expr], None]) -> None:
        """Emit one use of the vector unit: ``one(head, token)`` for a core's part of the heads of all tokens."""
        first, rows = share(count * tokens, core, cores)
        with vector(rows * dim, instructions), serial(rows, "i") as i:
            one(bound("head", (first + i) // tokens), bound("token", (first + i) % tokens))

    buffers = [
        Buffer("qkv", "float32", (tokens - 1) * stride + width),
        *([Buffer("q_norm", "float32", dim), Buffer("k_norm", "float32", dim)] if norms else []),
        *(Buffer(name, "float32", tokens * dim) for name in ("cos", "sin")),
        Buffer("q", "float16", heads * tokens * dim, "write"),
        *(Buffer(name, "float16", kv_heads * tokens * dim, "write") for name in ("k", "v")),
    ]
    name = symbol(
        "head_prep",
        tokens=tokens,
        heads=heads,
        kv=kv_heads,
        dim=dim,
        stride=qkv_stride,
        norms=norms,
        eps=eps if norms else None,
        cores=cores,
    )
    return define(name, "vector", buffers, cores, emit)
