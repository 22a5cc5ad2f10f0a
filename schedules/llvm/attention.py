"""Attention over the paged KV cache for the llvm target: one kernel from the projections to the heads' outputs.

First the new keys are normalized and rotated, and written into the cache with their values. Then the attention, as
tasks over one task number that threads take in turn:

    a tile    several tokens of one slot, with all heads of the group, over the whole context (prefill)
    a token   one token with the heads of one group, where a slot has few tokens in the batch (decoding)
    a chunk   one token's piece of the context, in batches so small that the tokens would not occupy the threads

Tokens and chunks go through the same operations in the same order, and so give the same bits; so do tiles that multiply
in float32. Where no slot has more than one token, the tasks write what they read, and there is no first phase.

Directly written TIR: an online softmax over a page table between two register-tiled products has no loop nest that
schedule primitives could make from a plain definition.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any, Literal

from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.tirx import PrimFunc
from tvm.tirx.script import builder as build

from . import bfloat
from .attention_cache import Cache, cache_shapes
from .attention_input import Inputs, Rotation
from .attention_prefill import BFLOAT16, FLOAT32, Tiles
from .attention_steps import Attention
from .attention_tile import AttentionTile, Batch, Heads
from .simd import current

__all__ = ["AttentionTile", "cached_attention"]


def cached_attention(
    heads: int,
    kv_heads: int,
    head_dim: int,
    *,
    cache_dtype: Literal["float16", "float32", "int8"],
    scale: float,
    fused_qkv: bool,
    qk_norm_eps: float | None = None,
    k_offset: bool = False,
    products: Literal["float32", "bfloat16"] = "float32",
    tile: AttentionTile | None = None,
) -> PrimFunc:
    """Causal grouped-query attention of a ragged batch of tokens, over caches that it first extends in place.

    Arguments with `fused_qkv` (out f32[n, heads * head_dim]):
        qkv f32[n, (heads + 2 * kv_heads) * head_dim]   queries, keys, values
        q_norm, k_norm f32[head_dim]                    only with `qk_norm_eps`: RMSNorm of each head, then rotation
        k_offset f32[kv_heads, head_dim]                only with `k_offset`, int8 caches: taken from rotated keys
        cos, sin f32[n, head_dim]                       x * cos + concat(-x[half:], x[:half]) * sin
    without (out f32[n, heads, head_dim]): q like out, k and v f32[n, kv_heads, head_dim], rotated already.
    Then for both:
        positions i32[n], slots i32[n], pages i32[s, p]
        k_cache [num_pages, kv_heads, blocks, head_dim, 16], v_cache [num_pages, kv_heads, blocks, 16, head_dim]; both
        [num_pages, kv_heads, blocks, head_dim + 4, 16] of int8 (see `attention_cache`)
        out
    Token i attends to positions 0 … positions[i] of slots[i]; the tokens of a slot are contiguous and their positions
    consecutive. ValueError if the shapes are not ones the kernel can do.

    `products`: how tokens that go in tiles multiply. With float32 a token's result does not depend on the batch it
    comes in. With bfloat16 (AVX512_BF16 only) it depends on one thing: whether its slot has more than
    ``tile.split_tokens`` tokens in the batch. If so, queries, keys, values and weights are rounded to bfloat16 before
    they are multiplied (sums, maxima and sums of weights are float32); if not, the result is that of float32. Tiles,
    neighbours, pages and threads change no bit.
    """
    if products not in ("float32", "bfloat16"):
        raise ValueError(f"attention multiplies in float32 or bfloat16, not in {products}")
    if products == "bfloat16" and not current().bf16:
        raise ValueError("products in bfloat16 need AVX512_BF16: leave `products` at float32 for this instruction set")
    shape, tile = Heads(heads, kv_heads, head_dim), tile or AttentionTile.default()
    if qk_norm_eps is not None and not fused_qkv:
        raise ValueError("qk_norm_eps needs fused_qkv: rotated queries and keys are normalized already")
    if k_offset and not (fused_qkv and cache_dtype == "int8"):
        raise ValueError("k_offset needs fused_qkv and an int8 cache")
    with IRBuilder() as module, build.prim_func():
        build.func_name("cached_attention")
        build.func_attr({"tirx.noalias": True, "op_pattern": 8})  # 8: opaque, or fusion would lose the in-place caches
        n = T.int64()

        def argument(name: str, *dims: Any, dtype: str = "float32") -> Any:
            return build.arg(name, build.buffer(dims, dtype))

        rotation: Rotation | None = None
        offset: Any = None
        projections: tuple[Any, ...]
        if fused_qkv:
            projections = (argument("qkv", n, (heads + 2 * kv_heads) * head_dim),)
            normed = qk_norm_eps is not None
            q_norm, k_norm = (argument(name, head_dim) if normed else None for name in ("q_norm", "k_norm"))
            offset = argument("k_offset", kv_heads, head_dim) if k_offset else None
            cos, sin = argument("cos", n, head_dim), argument("sin", n, head_dim)
            rotation = Rotation(cos, sin, q_norm, k_norm, qk_norm_eps)
        else:
            projections = tuple(
                argument(name, n, count, head_dim) for name, count in (("q", heads), ("k", kv_heads), ("v", kv_heads))
            )
        positions, slots = (argument(name, n, dtype="int32") for name in ("positions", "slots"))
        pages = argument("pages", T.int64(), T.int64(), dtype="int32")
        num_pages, blocks = T.int64(), T.int64()
        keys, values = (
            argument(name, num_pages, kv_heads, blocks, *dims, dtype=cache_dtype)
            for name, dims in zip(("k_cache", "v_cache"), cache_shapes(shape, cache_dtype), strict=True)
        )
        out = argument("out", n, *((heads * head_dim,) if fused_qkv else (heads, head_dim)))
        batch, cache = Batch(n, positions, slots), Cache(shape, keys, values, pages, blocks)
        inputs = Inputs(shape, projections, rotation, scale * math.log2(math.e), mixed=cache.scaled, k_offset=offset)
        tiles = Tiles(shape, tile, FLOAT32 if products == "float32" else BFLOAT16, cache, batch, inputs, out)
        with bfloat.instructions() if products == "bfloat16" else nullcontext():
            Attention(shape, tile, tiles, cache, batch, inputs, out).emit()
    return module.get()
