"""What comes into attention: queries and keys normalized and rotated, keys and values written into the cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm.script import tirx as T

from . import simd
from .attention_tile import Batch, Cache, Heads, minimum
from .math import lane_sum
from .simd import LANES, Expr, keep, workspace

Source = Callable[[Expr, int], Expr]
"""(first feature, lanes) -> that many features of one head of one token."""


@dataclass(frozen=True)
class Rotation:
    """What turns a projected query or key into one that may be compared: an RMSNorm over the head if any, and the
    angles.
    """

    cos: Any
    sin: Any
    q_norm: Any | None
    k_norm: Any | None
    eps: float | None


@dataclass(frozen=True)
class Inputs:
    """The new tokens' queries, keys and values: three buffers [n, heads, head_dim] that are rotated already, or one
    [n, (heads + 2 * kv_heads) * head_dim] and its rotation.
    """

    heads: Heads
    projections: tuple[Any, ...]
    rotation: Rotation | None
    scale: float
    """What queries are multiplied by: so that the softmax needs only exp2."""

    def _source(self, part: int, token: Expr, head: Expr) -> Source:
        """One head of the queries (part 0), keys (1) or values (2)."""
        if self.rotation is None:
            return lambda start, count: simd.load(self.projections[part], token, head, start, count=count)
        before = (0, self.heads.heads, self.heads.heads + self.heads.kv_heads)[part]
        first = keep((head + before) * self.heads.head_dim)
        return lambda start, count: simd.load(self.projections[0], token, first + start, count=count)

    def _ready(self, part: int, token: Expr, head: Expr) -> Source:
        """The same, normalized and rotated."""
        source = self._source(part, token, head)
        if self.rotation is None:
            return source
        turned = workspace(self.heads.head_dim)
        norm = (self.rotation.q_norm, self.rotation.k_norm)[part]
        rotate(self.heads.head_dim, self.rotation, norm, token, source, turned)
        return lambda start, count: simd.load(turned, start, count=count)

    def prefetch(self, part: int, token: Expr, head: Expr) -> None:
        """Emit prefetches of one head of the queries (part 0), keys (1) or values (2)."""
        line = simd.BYTES // 4
        for start in range(0, self.heads.head_dim, line):
            if self.rotation is None:
                simd.prefetch(self.projections[part], token, head, start)
            else:
                before = (0, self.heads.heads, self.heads.heads + self.heads.kv_heads)[part]
                simd.prefetch(self.projections[0], token, (head + before) * self.heads.head_dim + start)

    def read_queries(self, token: Expr, kv_head: Expr, store: Callable[[Expr, Expr, Expr], None]) -> None:
        """Emit ``store(member, first, vector)`` for all 16 features from `first` on of the group's heads of a token."""
        with T.serial(0, self.heads.group) as member:
            query = self._ready(0, token, keep(kv_head * self.heads.group + member))
            with T.serial(0, self.heads.vectors) as v:
                store(member, v * LANES, query(v * LANES, LANES) * simd.splat(self.scale))

    def write(self, cache: Cache, batch: Batch, token: Expr, kv_head: Expr) -> None:
        """Emit the store of one token's key and value of one head into the cache."""
        position = keep(batch.position(token))
        page, block = cache.place(batch.slot(token), keep(T.truncdiv(position, T.int64(LANES))))
        lane = keep(T.truncmod(position, T.int64(LANES)))
        key = self._ready(1, token, kv_head)
        dtype = str(cache.keys.dtype)
        column = simd.scratch((LANES,), dtype)
        with T.serial(0, self.heads.vectors) as v:
            simd.store(column, T.cast(key(v * LANES, LANES), f"{dtype}x{LANES}"), 0)
            for d in range(LANES):
                T.buffer_store(cache.keys, column[d], [page, kv_head, block, v * LANES + d, lane])
        self._write_value(cache, token, kv_head, page, block, lane)

    def write_block(self, cache: Cache, batch: Batch, token: Expr, kv_head: Expr) -> None:
        """The same for 16 tokens from `token` on that fill a block of the cache: keys in whole vectors."""
        page, block = cache.place(batch.slot(token), keep(T.truncdiv(batch.position(token), T.int64(LANES))))
        dtype = str(cache.keys.dtype)
        lines = workspace(LANES, self.heads.head_dim, dtype=dtype)
        with T.serial(0, T.int64(LANES)) as lane:
            # a token's row is longer than a memory page, where the processor's own prefetching ends
            ahead = keep(token + minimum(lane + 2, T.int64(LANES - 1)))
            self.prefetch(1, ahead, kv_head)
            self.prefetch(2, ahead, kv_head)
            key = self._ready(1, token + lane, kv_head)
            with T.serial(0, self.heads.vectors) as v:
                simd.store(lines, T.cast(key(v * LANES, LANES), f"{dtype}x{LANES}"), lane, v * LANES)
            self._write_value(cache, token + lane, kv_head, page, block, lane)
        with T.serial(0, self.heads.vectors) as v:
            columns = transposed([keep(simd.load(lines, lane, v * LANES)) for lane in range(LANES)], dtype)
            for d, column in enumerate(columns):
                simd.store(cache.keys, column, page, kv_head, block, v * LANES + d, 0)

    def _write_value(self, cache: Cache, token: Expr, kv_head: Expr, page: Expr, block: Expr, lane: Expr) -> None:
        value = self._source(2, token, kv_head)
        with T.serial(0, self.heads.vectors) as v:
            vector = T.cast(value(v * LANES, LANES), f"{cache.values.dtype}x{LANES}")
            simd.store(cache.values, vector, page, kv_head, block, lane, v * LANES)


def rotate(head_dim: int, rotation: Rotation, norm: Any | None, token: Expr, source: Source, to: Any) -> None:
    """Emit to[0 : head_dim] = rotary(norm(source)); `to` is a buffer f32[head_dim]."""
    half = head_dim // 2
    width = LANES if half % LANES == 0 else LANES // 2  # head_dim is a multiple of 16
    factor: Expr = None
    if norm is not None:
        squares = simd.scratch((LANES,), "float32")
        simd.store(squares, simd.splat(0.0), 0)
        with T.serial(0, head_dim // LANES) as v:
            x = keep(source(v * LANES, LANES))
            simd.store(squares, simd.fma(x, x, simd.load(squares, 0)), 0)
        mean = lane_sum(simd.load(squares, 0)) * T.float32(1 / head_dim)
        factor = keep(simd.splat(T.float32(1) / T.sqrt(mean + T.float32(rotation.eps)), width))

    def piece(start: Expr) -> Expr:
        x = source(start, width)
        return keep(x if norm is None else x * factor * simd.load(norm, start, count=width))

    with T.serial(0, half // width) as v:
        low, high = v * width, v * width + half
        x, y = piece(low), piece(high)
        cos_low, sin_low = (simd.load(table, token, low, count=width) for table in (rotation.cos, rotation.sin))
        cos_high, sin_high = (simd.load(table, token, high, count=width) for table in (rotation.cos, rotation.sin))
        simd.store(to, simd.fma(x, cos_low, simd.splat(0.0, width) - y * sin_low), low, count=width)
        simd.store(to, simd.fma(y, cos_high, x * sin_high), high, count=width)


def transposed(rows: list[Expr], dtype: str) -> list[Expr]:
    """The columns of 16 vectors of 16 lanes. Emits bindings.

    Four times row i is interleaved with row i + 8, which rotates the eight bits of (row, lane) by four.
    """
    for _ in range(4):
        pairs = []
        for low, high in zip(rows[: LANES // 2], rows[LANES // 2 :], strict=True):
            both = keep(simd.intrinsic("llvm.vector.interleave2", f"{dtype}x{2 * LANES}", low, high))
            half = f"{dtype}x{LANES}"
            pairs += [keep(T.vectorlow(half, both)), keep(T.vectorhigh(half, both))]
        rows = pairs
    return rows
