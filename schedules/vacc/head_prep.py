"""From the merged projection of an attention to its heads: norm, rotation, and the layouts of the products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm.script import tirx as T

from vamc_py.schedules.vacc.heads import Heads, rotate
from vamc_py.schedules.vacc.intrinsics import saturate
from vamc_py.schedules.vacc.kernel import Buffer, DeviceKernel, define, factory, symbol
from vamc_py.schedules.vacc.loops import Expr, serial
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
    at = Heads(tokens, heads, kv_heads, dim, qkv_stride or (heads + 2 * kv_heads) * dim)

    def emit(core: Expr, qkv: Any, *rest: Any) -> None:
        q_norm, k_norm = rest[:2] if norms else (None, None)
        cos, sin, q, k, v = rest[-5:]

        def turn(first_head: int, norm: Any, out: Any, place: Callable[..., Expr], head: Expr, token: Expr) -> None:
            begin = at.begin(first_head + head, token)
            factor = rms_factor(dim, lambda j: qkv[begin + j], eps) if norm is not None else None

            def x(j: Expr) -> Expr:
                return qkv[begin + j] if factor is None else qkv[begin + j] * factor * norm[j]

            def store(value: Expr, j: Expr) -> None:
                T.buffer_store(out, saturate(value), [place(head, token, j)])

            rotate(dim // 2, x, lambda j: cos[token * dim + j], lambda j: sin[token * dim + j], store)

        def copy(head: Expr, token: Expr) -> None:
            begin = at.begin(heads + kv_heads + head, token)
            with serial(dim, "j") as j:
                T.buffer_store(v, saturate(qkv[begin + j]), [at.row_place(head, token, j)])

        at.each(core, cores, heads, 4 + 4 * norms, lambda *one: turn(0, q_norm, q, at.row_place, *one))
        at.each(core, cores, kv_heads, 4 + 4 * norms, lambda *one: turn(heads, k_norm, k, at.key_place, *one))
        at.each(core, cores, kv_heads, 1, copy)

    buffers = [
        Buffer("qkv", "float32", at.elements),
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
