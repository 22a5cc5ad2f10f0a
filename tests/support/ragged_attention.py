"""What cached attention means, in float64 and with lists: the histories of slots, and the caches cell by cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

Array = np.ndarray[Any, Any]


@dataclass
class RaggedAttention:
    """The keys and values of every slot so far. ``pages`` i32 [s, p], ``blocks`` of 16 positions a page."""

    pages: Array
    blocks: int
    scale: float
    dtype: str  # of the caches
    products: str = "float32"  # "bfloat16": factors are rounded to it
    history: dict[tuple[int, int], tuple[Array, Array]] = field(default_factory=dict)  # (slot, position) -> k, v

    def step(self, q: Array, k: Array, v: Array, positions: Sequence[int], slots: Sequence[int]) -> Array:
        """q [n, H, d], k and v [n, KV, d] -> [n, H, d]; the new keys and values are remembered."""
        for i, (position, slot) in enumerate(zip(positions, slots, strict=True)):
            self.history[slot, position] = (k[i].astype(self.dtype), v[i].astype(self.dtype))
        rows = [
            self._attend(q[i], slot, position)
            for i, (position, slot) in enumerate(zip(positions, slots, strict=True))
        ]  # fmt: skip
        return np.array(rows).reshape(q.shape)

    def _attend(self, q: Array, slot: int, position: int) -> Array:
        seen = [self.history[slot, t] for t in range(position + 1)]
        keys, values = (self._factors(np.array([pair[part] for pair in seen], np.float64)) for part in (0, 1))
        group = len(q) // keys.shape[1]
        out = []
        for head, row in enumerate(self._factors(q)):
            scores = keys[:, head // group] @ row * self.scale
            weights = np.exp(scores - scores.max())
            out.append(self._factors(weights) @ values[:, head // group] / weights.sum())
        return np.array(out)

    def _factors(self, x: Array) -> Array:
        """x as it is multiplied, float64."""
        kind = ml_dtypes.bfloat16 if self.products == "bfloat16" else np.float64
        return x.astype(np.float32 if self.products == "bfloat16" else np.float64).astype(kind).astype(np.float64)

    def caches(self, k_before: Array, v_before: Array) -> tuple[Array, Array]:
        """The caches after the steps: only the cells of the history differ from before."""
        k_cache, v_cache = k_before.copy(), v_before.copy()
        for (slot, position), (k, v) in self.history.items():
            page, rest = self.pages[slot, position // (16 * self.blocks)], position % (16 * self.blocks)
            k_cache[page, :, rest // 16, :, rest % 16] = k
            v_cache[page, :, rest // 16, rest % 16, :] = v
        return k_cache, v_cache
