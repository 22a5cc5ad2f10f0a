"""What comes into attention: queries and keys normalized and rotated, keys and values written into the cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm.script import tirx as T

from . import simd
from .attention_cache import Cache, Place
from .attention_tile import Batch, Heads, minimum
from .hadamard import block_of, hadamard
from .math import lane_sum
from .row_quantization import Each
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
    mixed: bool = False
    """Whether queries and keys go through the Hadamard transform, as int8 caches want it."""
    k_offset: Any = None
    """float32[kv_heads, head_dim]: what is taken from rotated keys."""

    def _source(self, part: int, token: Expr, head: Expr) -> Source:
        """One head of the queries (part 0), keys (1) or values (2)."""
        if self.rotation is None:
            return lambda start, count: simd.load(self.projections[part], token, head, start, count=count)
        before = (0, self.heads.heads, self.heads.heads + self.heads.kv_heads)[part]
        first = keep((head + before) * self.heads.head_dim)
        return lambda start, count: simd.load(self.projections[0], token, first + start, count=count)

    def _ready(self, part: int, token: Expr, head: Expr) -> Source:
        """The same, normalized and rotated, and mixed where that is wanted."""
        source = self._source(part, token, head)
        turned = workspace(self.heads.head_dim) if self.rotation is not None or self.mixed else None
        if turned is None:
            return source

        def from_turned(start: Expr, count: int) -> Expr:
            return simd.load(turned, start, count=count)

        if self.rotation is not None:
            norm = (self.rotation.q_norm, self.rotation.k_norm)[part]
            rotate(self.heads.head_dim, self.rotation, norm, token, source, turned)
            source = from_turned
        if self.mixed:
            vectors = [keep(source(v * LANES, LANES)) for v in range(self.heads.vectors)]
            if part == 1 and self.k_offset is not None:
                vectors = [keep(x - simd.load(self.k_offset, head, v * LANES)) for v, x in enumerate(vectors)]
            for v, vector in enumerate(hadamard(vectors)):
                simd.store(turned, vector, v * LANES)
        return from_turned

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
        scale = self.scale / block_of(self.heads.head_dim) if self.mixed else self.scale
        with T.serial(0, self.heads.group) as member:
            query = self._ready(0, token, keep(kv_head * self.heads.group + member))
            with T.serial(0, self.heads.vectors) as v:
                store(member, v * LANES, query(v * LANES, LANES) * simd.splat(scale))

    def write(self, cache: Cache, batch: Batch, token: Expr, kv_head: Expr) -> None:
        """Emit the store of one token's key and value of one head into the cache."""
        position = keep(batch.position(token))
        page, block = cache.place(batch.slot(token), keep(T.truncdiv(position, T.int64(LANES))))
        lane = keep(T.truncmod(position, T.int64(LANES)))
        place = Place(page, kv_head, block)
        cache.write_key(place, lane, self._each(self._ready(1, token, kv_head)))
        cache.write_value(place, lane, self._each(self._source(2, token, kv_head)))

    def write_block(self, cache: Cache, batch: Batch, token: Expr, kv_head: Expr) -> None:
        """The same for 16 tokens from `token` on that fill a block of the cache: keys in whole vectors."""
        page, block = cache.place(batch.slot(token), keep(T.truncdiv(batch.position(token), T.int64(LANES))))
        place = Place(page, kv_head, block)
        lines = workspace(LANES, self.heads.head_dim, dtype=cache.dtype)
        with T.serial(0, T.int64(LANES)) as lane:
            # a token's row is longer than a memory page, where the processor's own prefetching ends
            ahead = keep(token + minimum(lane + 2, T.int64(LANES - 1)))
            self.prefetch(1, ahead, kv_head)
            self.prefetch(2, ahead, kv_head)

            def keep_line(vector: Expr, first: Expr, lane: Expr = lane) -> None:
                simd.store(lines, vector, lane, first)

            scale = cache.narrow(self._each(self._ready(1, token + lane, kv_head)), keep_line)
            cache.write_key_scale(place, lane, scale)
            cache.write_value(place, lane, self._each(self._source(2, token + lane, kv_head)))
        with T.serial(0, self.heads.vectors) as v:
            rows = [keep(simd.load(lines, lane, v * LANES)) for lane in range(LANES)]
            for d, column in enumerate(transposed(rows, cache.dtype)):
                cache.write_keys(place, v * LANES + d, column)

    def _each(self, source: Source) -> Each:
        """Goes through the vectors of a head."""

        def each(emit: Callable[[Expr, Expr], None]) -> None:
            with T.serial(0, self.heads.vectors) as v:
                emit(keep(source(v * LANES, LANES)), v * LANES)

        return each


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
