"""Random attention problems over a paged cache, and their solution in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass
class Problem:
    """A ragged batch: `runs` are (slot, first position, tokens) in batch order; everything before a run is in the
    cache.
    """

    heads: int
    kv_heads: int
    head_dim: int
    page_size: int
    runs: list[tuple[int, int, int]]
    cache_dtype: str = "float16"
    seed: int = 0

    def __post_init__(self) -> None:
        random = np.random.default_rng(self.seed)
        self.random = random
        slots = 1 + max((slot for slot, _, _ in self.runs), default=0)
        longest = max((first + count for _, first, count in self.runs), default=1)
        pages_a_slot = -(-longest // self.page_size)
        self.slots = np.concatenate([[slot] * count for slot, _, count in self.runs] or [[]]).astype(np.int32)
        self.positions = np.concatenate([np.arange(f, f + c) for _, f, c in self.runs] or [[]]).astype(np.int32)
        self.n = len(self.slots)
        spare = 2  # pages of nobody
        self.pages = random.permutation(slots * pages_a_slot + spare)[: slots * pages_a_slot].astype(np.int32)
        self.pages = np.ascontiguousarray(self.pages.reshape(slots, pages_a_slot))
        blocks = self.page_size // 16
        shape = (slots * pages_a_slot + spare, self.kv_heads, blocks)
        dtype = np.dtype(self.cache_dtype)
        self.k_cache = random.standard_normal((*shape, self.head_dim, 16)).astype(dtype)
        self.v_cache = random.standard_normal((*shape, 16, self.head_dim)).astype(dtype)
        self.q, self.k, self.v = (
            random.standard_normal((self.n, count, self.head_dim)).astype(np.float32)
            for count in (self.heads, self.kv_heads, self.kv_heads)
        )

    def place(self, slot: int, position: int) -> tuple[int, int, int]:
        page = self.pages[slot, position // self.page_size]
        return page, position % self.page_size // 16, position % 16

    def written(self, k: Array, v: Array) -> tuple[Array, Array]:
        """The caches after the step, for keys and values [n, kv_heads, head_dim]."""
        k_cache, v_cache = self.k_cache.copy(), self.v_cache.copy()
        for i in range(self.n):
            page, block, lane = self.place(int(self.slots[i]), int(self.positions[i]))
            k_cache[page, :, block, :, lane] = k[i]
            v_cache[page, :, block, lane, :] = v[i]
        return k_cache, v_cache

    def attention(self, q: Array, k_cache: Array, v_cache: Array, scale: float) -> Array:
        """softmax(q k scale) v over the positions that each token may see, in float64: [n, heads * head_dim]."""
        out = np.zeros((self.n, self.heads, self.head_dim))
        for i in range(self.n):
            slot, length = int(self.slots[i]), int(self.positions[i]) + 1
            places = [self.place(slot, t) for t in range(length)]
            keys = np.stack([k_cache[p, :, b, :, t] for p, b, t in places]).astype(np.float64)
            values = np.stack([v_cache[p, :, b, t, :] for p, b, t in places]).astype(np.float64)
            for head in range(self.heads):
                shared = head // (self.heads // self.kv_heads)
                scores = keys[:, shared] @ q[i, head].astype(np.float64) * scale
                weights = np.exp(scores - scores.max())
                out[i, head] = weights @ values[:, shared] / weights.sum()
        return out.reshape(self.n, self.heads * self.head_dim)


def rotated(x: Array, cos: Array, sin: Array) -> Array:
    half = x.shape[-1] // 2
    return x * cos[:, None] + np.concatenate([-x[..., half:], x[..., :half]], axis=-1) * sin[:, None]


def normalized(x: Array, weight: Array, eps: float) -> Array:
    wide = x.astype(np.float64)
    return wide / np.sqrt(np.mean(wide**2, axis=-1, keepdims=True) + eps) * weight
