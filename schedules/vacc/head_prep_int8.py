"""Heads of an attention with an int8 KV cache: as ``head_prep``, then mixed, and keys and values rounded to int8."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm.script import tirx as T

from vamc_py.dialect.int8_cache import mixed_block
from vamc_py.schedules.vacc.heads import Heads, rotate
from vamc_py.schedules.vacc.intrinsics import DIVISION, saturate
from vamc_py.schedules.vacc.kernel import Buffer, DeviceKernel, define, factory, symbol
from vamc_py.schedules.vacc.loops import Expr, bound, named, scratch, serial
from vamc_py.schedules.vacc.vector_math import rms_factor, row_max

_ROUNDING = 2 + DIVISION + 2  # instructions: the largest magnitude, the division, to round and to convert


@factory
def head_prep_int8(
    tokens: int,
    heads: int,
    kv_heads: int,
    dim: int,
    *,
    qkv_stride: int | None = None,
    norms: bool = False,
    eps: float = 0.0,
    offset: bool = False,
    cores: int,
) -> DeviceKernel:
    """Arguments qkv, [q_norm, k_norm], [offset f32 [kv_heads, dim]], cos, sin, then the results: q f16, k i8, v i8,
    laid out as those of `head_prep`, and the scales of k and of v, f32 [kv_heads, tokens] each.

    Heads of q and k are normalised and turned as there. `offset` is taken from keys. Then blocks of
    ``int8_cache.mixed_block(dim)`` features are mixed by the Hadamard transform in float32, features 1 apart first,
    then 2, 4, …; queries are divided by the size of a block and rounded to float16. Keys and values become
    round(x / scale), half to even, with the scale max|x| * (1 / 127) of their token and head; of numbers below 1e-30
    zeros with the scale 0 (``dialect.int8_cache``). They are finite.

    Instructions an element: of q and k 4 for the norm, 3 for the rotation, 1 for the offset, log2(block) for mixing; of
    q 2 for the division and float16; of k and v 8 to round.
    """
    at = Heads(tokens, heads, kv_heads, dim, qkv_stride or (heads + 2 * kv_heads) * dim)
    block = mixed_block(dim)
    levels = block.bit_length() - 1

    def emit(core: Expr, qkv: Any, *rest: Any) -> None:
        q_norm, k_norm = rest[:2] if norms else (None, None)
        taken = rest[2 * norms] if offset else None
        cos, sin, q, k, v, k_scales, v_scales = rest[-7:]

        def turned(first_head: int, norm: Any, shift: Any, head: Expr, token: Expr) -> Any:
            """A buffer of a head, rotated and mixed."""
            begin = at.begin(first_head + head, token)
            factor = rms_factor(dim, lambda j: qkv[begin + j], eps) if norm is not None else None
            row = scratch(dim, "float32", "row")

            def x(j: Expr) -> Expr:
                return qkv[begin + j] if factor is None else qkv[begin + j] * factor * norm[j]

            def store(value: Expr, j: Expr) -> None:
                T.buffer_store(row, value if shift is None else value - shift[head * dim + j], [j])

            rotate(dim // 2, x, lambda j: cos[token * dim + j], lambda j: sin[token * dim + j], store)
            return _mixed(row, dim, block)

        def query(head: Expr, token: Expr) -> None:
            row = turned(0, q_norm, None, head, token)
            with serial(dim, "j") as j:
                T.buffer_store(q, saturate(row[j] * T.float32(1 / block)), [at.row_place(head, token, j)])

        def key(head: Expr, token: Expr) -> None:
            row = turned(heads, k_norm, taken, head, token)
            _round(dim, lambda j: row[j], k_scales, head * tokens + token, k, lambda j: at.key_place(head, token, j))

        def value(head: Expr, token: Expr) -> None:
            begin = at.begin(heads + kv_heads + head, token)
            place = head * tokens + token
            _round(dim, lambda j: qkv[begin + j], v_scales, place, v, lambda j: at.row_place(head, token, j))

        turning = 3 + 4 * norms + levels
        at.each(core, cores, heads, turning + 2, query)
        at.each(core, cores, kv_heads, turning + offset + _ROUNDING, key)
        at.each(core, cores, kv_heads, _ROUNDING, value)

    buffers = [
        Buffer("qkv", "float32", at.elements),
        *([Buffer("q_norm", "float32", dim), Buffer("k_norm", "float32", dim)] if norms else []),
        *([Buffer("offset", "float32", kv_heads * dim)] if offset else []),
        *(Buffer(name, "float32", tokens * dim) for name in ("cos", "sin")),
        Buffer("q", "float16", heads * tokens * dim, "write"),
        *(Buffer(name, "int8", kv_heads * tokens * dim, "write") for name in ("k", "v")),
        *(Buffer(name, "float32", kv_heads * tokens, "write") for name in ("k_scales", "v_scales")),
    ]
    name = symbol(
        "head_prep_int8",
        tokens=tokens,
        heads=heads,
        kv=kv_heads,
        dim=dim,
        stride=qkv_stride,
        norms=norms,
        eps=eps if norms else None,
        offset=offset,
        cores=cores,
    )
    return define(name, "vector", buffers, cores, emit)


def _mixed(row: Any, dim: int, block: int) -> Any:
    """Emit the fast Walsh-Hadamard transform of each block of a row; the buffer of the result. It overwrites `row`."""
    source, target = row, scratch(dim, "float32", "mixed")
    apart = 1
    while apart < block:
        with serial(dim // 2, "pair") as pair:
            low = bound("low", pair // apart * (2 * apart) + pair % apart)
            T.buffer_store(target, source[low] + source[low + apart], [low])
            T.buffer_store(target, source[low] - source[low + apart], [low + apart])
        source, target = target, source
        apart *= 2
    return source


def _round(
    dim: int, x: Callable[[Expr], Expr], scales: Any, place: Expr, out: Any, out_place: Callable[[Expr], Expr]
) -> None:
    """Emit out = x / scale as int8 for a token and head, and its scale."""
    largest = row_max(dim, lambda j: T.abs(x(j)), 0.0)
    nothing = largest < T.float32(1e-30)
    T.buffer_store(scales, T.Select(nothing, T.float32(0), largest * T.float32(1 / 127)), [place])
    scale = named("scale", T.bind(scales[place]))
    with serial(dim, "j") as j:
        divided = x(j) / T.Select(scale > T.float32(0), scale, T.float32(1))
        whole = T.Select(scale > T.float32(0), T.nearbyint(divided), T.float32(0))
        T.buffer_store(out, T.cast(whole, "int8"), [out_place(j)])
