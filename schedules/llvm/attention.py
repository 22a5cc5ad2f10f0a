"""Attention over the paged KV cache for the llvm target: one kernel from the projections to the heads' outputs.

Two phases, a launch each. First, by token and key/value head: norm, rotation, the write into the cache, and the rotated
queries (times scale and log2(e), so that the softmax needs only exp2) into a workspace. Then the attention, as tasks of
different kinds over one task number that threads take in turn, so that short and long tasks are spread over them:

    a tile    several tokens of one slot, with all heads of the group, over the whole context (prefill)
    a token   one token with the heads of one group, where a tile has tokens of several slots or very few
    a chunk   one token's piece of the context, in batches so small that the tokens would not occupy the threads

All three go through `attend_chunk` and `merge` in the same order, and so give the same bits.

Directly written TIR: an online softmax over a page table between two register-tiled products has no loop nest that
schedule primitives could make from a plain definition.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.tirx import PrimFunc
from tvm.tirx.script import builder as build

from . import simd
from .attention_chunk import Rows, Scratch, attend_chunk, clear, finish, merge
from .attention_tile import AttentionTile, Batch, Cache, Heads, Partial, ceildiv, minimum, workspace
from .attention_write import Rotation, rotate, write_keys_values
from .math import keep
from .simd import LANES, Expr

__all__ = ["AttentionTile", "cached_attention"]


def cached_attention(
    heads: int,
    kv_heads: int,
    head_dim: int,
    *,
    cache_dtype: Literal["float16", "float32"],
    scale: float,
    fused_qkv: bool,
    qk_norm_eps: float | None = None,
    tile: AttentionTile | None = None,
) -> PrimFunc:
    """Causal grouped-query attention of a ragged batch of tokens, over caches that it first extends in place.

    Arguments with `fused_qkv` (out f32[n, heads * head_dim]):
        qkv f32[n, (heads + 2 * kv_heads) * head_dim]   queries, keys, values
        q_norm, k_norm f32[head_dim]                    only with `qk_norm_eps`: RMSNorm of each head, then rotation
        cos, sin f32[n, head_dim]                       x * cos + concat(-x[half:], x[:half]) * sin
    without (out f32[n, heads, head_dim]): q like out, k and v f32[n, kv_heads, head_dim], rotated already.
    Then for both:
        positions i32[n], slots i32[n], pages i32[s, p]
        k_cache [num_pages, kv_heads, blocks, head_dim, 16], v_cache [num_pages, kv_heads, blocks, 16, head_dim]
        out
    Token i attends to positions 0 … positions[i] of slots[i]; the tokens of a slot are contiguous and ascending. A
    token's result does not depend on the batch it comes in. ValueError if the shapes are not ones the kernel can do.
    """
    shape, tile = Heads(heads, kv_heads, head_dim), tile or AttentionTile()
    if qk_norm_eps is not None and not fused_qkv:
        raise ValueError("qk_norm_eps needs fused_qkv: rotated queries and keys are normalized already")
    with IRBuilder() as module, build.prim_func():
        build.func_name("cached_attention")
        build.func_attr({"tirx.noalias": True, "op_pattern": 8})  # 8: opaque, or fusion would lose the in-place caches
        n = T.int64()

        def argument(name: str, *dims: Any, dtype: str = "float32") -> Any:
            return build.arg(name, build.buffer(dims, dtype))

        rotation: Rotation | None = None
        if fused_qkv:
            qkv = argument("qkv", n, (heads + 2 * kv_heads) * head_dim)
            normed = qk_norm_eps is not None
            q_norm, k_norm = (argument(name, head_dim) if normed else None for name in ("q_norm", "k_norm"))
            cos, sin = argument("cos", n, head_dim), argument("sin", n, head_dim)
            rotation = Rotation(cos, sin, q_norm, k_norm, qk_norm_eps)
            projections = (qkv, qkv, qkv)
        else:
            projections = tuple(
                argument(name, n, count, head_dim) for name, count in (("q", heads), ("k", kv_heads), ("v", kv_heads))
            )
        positions, slots = (argument(name, n, dtype="int32") for name in ("positions", "slots"))
        pages = argument("pages", T.int64(), T.int64(), dtype="int32")
        num_pages, blocks = T.int64(), T.int64()
        keys = argument("k_cache", num_pages, kv_heads, blocks, head_dim, LANES, dtype=cache_dtype)
        values = argument("v_cache", num_pages, kv_heads, blocks, LANES, head_dim, dtype=cache_dtype)
        out = argument("out", n, *((heads * head_dim,) if fused_qkv else (heads, head_dim)))
        batch, cache = Batch(n, positions, slots), Cache(keys, values, pages, blocks)
        queries = workspace(kv_heads, n * shape.group + max(tile.rows, tile.heads), head_dim)
        _prepare(shape, cache, batch, projections, rotation, scale * math.log2(math.e), queries)
        _attend(_Attention(shape, tile, cache, batch, queries, out))
    return module.get()


def _prepare(
    heads: Heads,
    cache: Cache,
    batch: Batch,
    projections: tuple[Any, ...],
    rotation: Rotation | None,
    scale: float,
    queries: Any,
) -> None:
    """The first phase: cache and workspace."""
    starts = (0, heads.heads, heads.heads + heads.kv_heads)  # of the queries, keys and values among the heads of qkv

    with T.parallel(0, batch.n * heads.kv_heads) as task:
        # tokens innermost: 16 neighbours of one slot share every line of a block of keys
        token = keep(T.truncmod(task, batch.n))
        head = keep(T.truncdiv(task, batch.n))
        turned = workspace(heads.head_dim) if rotation else None

        def source(part: int, index: Expr) -> Callable[[Expr, int], Expr]:
            if rotation is None:
                return lambda start, count: simd.load(projections[part], token, index, start, count=count)
            first = keep((index + starts[part]) * heads.head_dim)
            return lambda start, count: simd.load(projections[part], token, first + start, count=count)

        def ready(part: int, norm: Any | None, index: Expr) -> Callable[[Expr, int], Expr]:
            if rotation is None:
                return source(part, index)
            rotate(heads, rotation, norm, token, source(part, index), turned)
            return lambda start, count: simd.load(turned, start, count=count)

        key = ready(1, rotation.k_norm if rotation else None, head)
        write_keys_values(heads, cache, batch, token, head, key, source(2, head))
        with T.serial(0, heads.group) as member:
            query = ready(0, rotation.q_norm if rotation else None, head * heads.group + member)
            with T.serial(0, heads.vectors) as v:
                scaled = query(v * LANES, LANES) * simd.splat(scale)
                simd.store(queries, scaled, head, token * heads.group + member, v * LANES)


@contextmanager
def _parallel_in_turn(extent: Expr) -> Iterator[Expr]:
    """A parallel loop whose threads take every k-th task: neighbours in number cost the same, ends may differ."""
    with (
        T.attr(0, "pragma_parallel_launch_point", 1),
        T.attr(0, "pragma_parallel_stride_pattern", 1),
        T.parallel(0, extent) as task,
    ):
        yield task


class _Attention:
    """The second phase."""

    def __init__(self, heads: Heads, tile: AttentionTile, cache: Cache, batch: Batch, queries: Any, out: Any) -> None:
        self.heads, self.tile, self.cache, self.batch, self.queries, self.out = heads, tile, cache, batch, queries, out
        steps = -(-heads.group // tile.heads)
        self.token_step = -(-heads.group // steps)  # the group's heads in as few, equal steps as the registers allow
        self.token_capacity = self.token_step * steps

    def token_rows(self, token: Expr, head: Expr) -> Rows:
        """The group's heads of one token."""
        slot, position = keep(self.batch.slot(token)), keep(self.batch.position(token))
        first, count = keep(token * self.heads.group), T.int64(self.heads.group)
        return Rows(
            self.queries, head, first, count, self.token_step, self.token_capacity, slot, lambda row: position, True
        )

    def tile_rows(self, first: Expr, tokens: Expr, head: Expr) -> Rows:
        """The group's heads of several tokens of one slot."""
        group = self.heads.group
        capacity = -(-self.tile.tokens * group // self.tile.rows) * self.tile.rows
        slot = keep(self.batch.slot(first))

        def position(row: Expr) -> Expr:
            return self.batch.position(first + T.truncdiv(row, T.int64(group)))

        return Rows(
            self.queries,
            head,
            keep(first * group),
            keep(tokens * group),
            self.tile.rows,
            capacity,
            slot,
            position,
            False,
        )

    def whole_context(self, rows: Rows, last: Expr) -> None:
        """Emit the attention of `rows` over positions 0 … last, chunk by chunk."""
        dim, chunk = self.heads.head_dim, self.tile.chunk
        scratch = Scratch.allocate(rows.capacity, self.tile)
        result = Partial(*Partial.allocate(rows=rows.capacity, head_dim=dim))
        part = Partial(*Partial.allocate(rows=rows.capacity, head_dim=dim))
        clear(self.heads, rows.count, result)
        with T.serial(0, ceildiv(last + 1, chunk)) as index:
            start = keep(index * chunk)
            end = keep(minimum(start + chunk, last + 1))
            attend_chunk(self.heads, self.tile, self.cache, rows, scratch, start, end, part)
            merge(self.heads, rows.count, result, part)
        finish(self.heads, self.batch, rows, result, self.out)


def _attend(job: _Attention) -> None:
    if job.tile.split_tokens == 0:
        return _by_tile(job)
    with T.If(job.batch.n <= job.tile.split_tokens):
        with T.Then():
            _by_chunk(job)
        with T.Else():
            _by_tile(job)


def _by_tile(job: _Attention) -> None:
    """Tiles of tokens of one slot; the tokens of a mixed tile one by one, as tasks after all tiles."""
    n, kv_heads, size = job.batch.n, job.heads.kv_heads, job.tile.tokens
    tiles = keep(ceildiv(n, size))

    def uniform(first: Expr, last: Expr) -> Expr:
        return job.batch.slots[first] == job.batch.slots[last]

    with _parallel_in_turn((tiles + n) * kv_heads) as task:
        index = keep(T.truncdiv(task, T.int64(kv_heads)))
        head = keep(T.truncmod(task, T.int64(kv_heads)))
        with T.If(index < tiles):
            with T.Then():
                first = keep(index * size)
                last = keep(minimum(first + size, n) - 1)
                with T.If(uniform(first, last)), T.Then():
                    rows = job.tile_rows(first, last + 1 - first, head)
                    job.whole_context(rows, keep(job.batch.position(last)))
            with T.Else():
                token = keep(index - tiles)
                first = keep(token - T.truncmod(token, T.int64(size)))
                last = keep(minimum(first + size, n) - 1)
                with T.If(T.Not(uniform(first, last))), T.Then():
                    job.whole_context(job.token_rows(token, head), keep(job.batch.position(token)))


def _by_chunk(job: _Attention) -> None:
    """Each chunk of each token's context on its own, then the merge by token."""
    n, kv_heads, chunk = job.batch.n, job.heads.kv_heads, job.tile.chunk
    longest = simd.scratch((1,), "int64")
    T.buffer_store(longest, T.int64(0), [0])
    with T.serial(0, n) as token:
        T.buffer_store(longest, T.max(longest[0], job.batch.position(token) + 1), [0])
    chunks = keep(ceildiv(longest[0], chunk))
    # TVM moves the allocation to the function's start, so its size has to follow from the arguments' shapes alone
    most = T.min(n, T.int64(job.tile.split_tokens)) * ceildiv(
        job.cache.pages.shape[1] * job.cache.blocks * LANES, chunk
    )
    parts = Partial.allocate(most, kv_heads, rows=job.token_capacity, head_dim=job.heads.head_dim)
    with _parallel_in_turn(n * kv_heads * chunks) as task:
        # tokens innermost: the threads are at the same place of the cache when tokens share a slot
        token = keep(T.truncmod(task, n))
        head = keep(T.truncmod(T.truncdiv(task, n), T.int64(kv_heads)))
        index = keep(T.truncdiv(task, n * kv_heads))
        start = keep(index * chunk)
        end = keep(minimum(start + chunk, job.batch.position(token) + 1))
        with T.If(start < end), T.Then():
            scratch = Scratch.allocate(job.token_capacity, job.tile)
            part = Partial(*parts, at=(keep(token * chunks + index), head))
            attend_chunk(job.heads, job.tile, job.cache, job.token_rows(token, head), scratch, start, end, part)
    with T.parallel(0, n * kv_heads) as task:
        token = keep(T.truncdiv(task, T.int64(kv_heads)))
        head = keep(T.truncmod(task, T.int64(kv_heads)))
        rows = job.token_rows(token, head)
        result = Partial(*Partial.allocate(rows=job.token_capacity, head_dim=job.heads.head_dim))
        clear(job.heads, rows.count, result)
        with T.serial(0, ceildiv(job.batch.position(token) + 1, chunk)) as index:
            part = Partial(*parts, at=(keep(token * chunks + index), head))
            merge(job.heads, rows.count, result, part)
        finish(job.heads, job.batch, rows, result, job.out)
