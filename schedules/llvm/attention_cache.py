"""The paged KV cache as the attention kernels read and write it, in float32, float16 or int8.

A block holds 16 positions of one head: keys [d, 16], so that scores are products down the head, values [16, d], so that
their sums are products along it. In int8 a position's key and its value have a scale each: behind the d * 16 bytes of a
block lie 16 float32, in the buffer [d + 4, 16] of bytes its last four rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tvm
from tvm.script import tirx as T

from vamc_py.dialect.int8_cache import CACHE_BLOCK, SCALE_ROWS

from . import simd
from .attention_tile import Heads
from .row_quantization import Each, largest_of, rounded, scale_and_inverse
from .simd import LANES, Expr, keep

LARGEST = 127  # the largest |integer|
_SCALE_BYTES = 4


def cache_shapes(heads: Heads, dtype: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """The two last dimensions of the buffers of keys and of values."""
    if dtype == "int8":
        return ((heads.head_dim + SCALE_ROWS, CACHE_BLOCK),) * 2
    return (heads.head_dim, CACHE_BLOCK), (CACHE_BLOCK, heads.head_dim)


@dataclass(frozen=True)
class Place:
    """A block of 16 positions of one head."""

    page: Expr
    head: Expr
    block: Expr

    @property
    def indices(self) -> tuple[Expr, Expr, Expr]:
        return self.page, self.head, self.block


@dataclass(frozen=True)
class Cache:
    """The paged cache of one layer, of `heads`; the buffers as `cache_shapes` says."""

    heads: Heads
    keys: Any
    values: Any
    pages: Any
    blocks: Expr
    """Blocks of 16 positions in a page."""

    @property
    def dtype(self) -> str:
        return str(self.keys.dtype)

    @property
    def scaled(self) -> bool:
        """Whether keys and values have scales, which `key` and `value` leave out."""
        return self.dtype == "int8"

    def place(self, slot: Expr, block: Expr) -> tuple[Expr, Expr]:
        """The page, and the block in it, of a slot's block of 16 positions. Emits bindings."""
        page = keep(T.cast(self.pages[slot, keep(T.truncdiv(block, self.blocks))], "int64"))
        return page, keep(T.truncmod(block, self.blocks))

    def key(self, place: Place, feature: Expr) -> Expr:
        """float32x16: one feature of 16 positions, without their scales. Emits a binding."""
        return self._wide(self.keys, place, feature, 0)

    def value(self, place: Place, position: Expr, feature: Expr) -> Expr:
        """float32x16: 16 features from `feature` (a multiple of 16) on of one position, without its scale. Emits a
        binding."""
        return self._wide(self.values, place, *self._of_value(position, feature))

    def key_scales(self, place: Place) -> Expr:
        """float32x16: the scales of 16 positions' keys; anything for positions that were never written."""
        return self._scales(self.keys, place)

    def value_scales(self, place: Place) -> Expr:
        """The same for values."""
        return self._scales(self.values, place)

    def prefetch(self, cache: Any, place: Place, first: Expr, count: int, step: int) -> None:
        """Emit prefetches, one each `step` bytes, of `count` elements of a block from its element `first` on."""
        elements = step * 8 // tvm.DataType(self.dtype).bits
        for start in range(0, count, elements):
            simd.prefetch(cache, *place.indices, 0, first + start)

    def write_key(self, place: Place, lane: Expr, each: Each) -> None:
        """Emit the store of a position's key, whose vectors `each` goes through, in the numbers of the cache."""
        column = simd.scratch((LANES,), self.dtype)

        def store(vector: Expr, first: Expr) -> None:
            simd.store(column, vector, 0)
            for d in range(LANES):
                T.buffer_store(self.keys, column[d], [*place.indices, first + d, lane])

        self._store_scale(self.keys, place, lane, self.narrow(each, store))

    def write_keys(self, place: Place, feature: Expr, vector: Expr) -> None:
        """Emit the store of one feature of 16 positions, in the numbers of the cache (scales: `write_key_scale`)."""
        simd.store(self.keys, vector, *place.indices, feature, 0)

    def write_key_scale(self, place: Place, lane: Expr, scale: Expr | None) -> None:
        """Emit the store of the scale of a position's key, as `narrow` gave it."""
        self._store_scale(self.keys, place, lane, scale)

    def write_value(self, place: Place, lane: Expr, each: Each) -> None:
        """Emit the store of a position's value, whose vectors `each` goes through, in the numbers of the cache."""

        def store(vector: Expr, first: Expr) -> None:
            simd.store(self.values, vector, *place.indices, *self._of_value(lane, first))

        self._store_scale(self.values, place, lane, self.narrow(each, store))

    def narrow(self, each: Each, store: Any) -> Expr | None:
        """Emit ``store(vector, first feature)`` for all vectors in the numbers of the cache; their scale, if any.

        int8: scale = max|x| / 127 of the whole head, round(x / scale) half to even.
        """
        if not self.scaled:
            each(lambda piece, first: store(T.cast(piece, f"{self.dtype}x{LANES}"), first))
            return None
        scale, inverse = scale_and_inverse(largest_of(each), LARGEST)
        each(lambda piece, first: store(T.cast(rounded(piece, inverse), f"int8x{LANES}"), first))
        return scale

    def _of_value(self, position: Expr, feature: Expr) -> tuple[Expr, Expr]:
        """The two last indices of 16 features of a value."""
        if not self.scaled:
            return position, feature
        return position * self.heads.vectors + T.truncdiv(feature, T.int64(LANES)), T.int64(0)

    def _wide(self, cache: Any, place: Place, *indices: Expr) -> Expr:
        return keep(T.cast(simd.load(cache, *place.indices, *indices), "float32x16"))

    def _scales(self, cache: Any, place: Place) -> Expr:
        stored = simd.load(cache, *place.indices, self.heads.head_dim, 0, count=LANES * _SCALE_BYTES)
        return simd.bits(stored, "float32x16")

    def _store_scale(self, cache: Any, place: Place, lane: Expr, scale: Expr | None) -> None:
        if scale is None:
            return
        in_row = LANES // _SCALE_BYTES
        row = self.heads.head_dim + T.truncdiv(lane, T.int64(in_row))
        column = T.truncmod(lane, T.int64(in_row)) * _SCALE_BYTES
        simd.store(cache, simd.bits(scale, "int8x4"), *place.indices, row, column, count=_SCALE_BYTES)
