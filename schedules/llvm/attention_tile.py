"""The shapes and decisions of the attention kernel, and where its data lies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from .simd import LANES, Expr, current

REGISTERS = 24
"""Most vector accumulators in an innermost loop; the other 8 of AVX-512's 32 registers hold operands."""


@dataclass(frozen=True)
class AttentionTile:
    """The decisions of `cached_attention` that a tuner may change. Only `block` and `chunk` change bits where products
    are float32, only `wide_block` where they are bfloat16; `split_tokens` decides which of the two a token gets.
    """

    tokens: int | None = None
    """Most tokens of one slot that go through the cache together; None: as many as give about `TILE_ROWS` rows."""
    rows: int = 12
    """Rows of a tile (its tokens times the heads of a group) held in registers at once."""
    heads: int = 12
    """Heads held in registers at once where a token goes alone."""
    registers: int = REGISTERS
    """Vector accumulators of 16 lanes that the innermost loops may have."""
    block: int = 64
    """Positions between two updates of the running maximum; a multiple of 16."""
    chunk: int = 256
    """Positions after which a partial result is closed and merged: the unit in which threads share a long context."""
    wide_block: int = 256
    """Positions between two updates of the running maximum in tiles that multiply in bfloat16; a multiple of 16."""
    split_tokens: int = 8
    """Slots with up to so many tokens in the batch have them go alone, and batches of up to so many tokens are spread
    over the threads by chunk, too.
    """

    def __post_init__(self) -> None:
        sizes = (self.tokens or 1, self.rows, self.heads, self.block, self.chunk, self.wide_block)
        if min(sizes) < 1 or self.split_tokens < 0:
            raise ValueError(f"the sizes of an attention tile are positive: {self}")
        if max(self.rows, self.heads) > self.registers:
            raise ValueError(f"{max(self.rows, self.heads)} rows do not fit in {self.registers} registers")
        if self.block % LANES or self.wide_block % LANES or self.chunk % self.block:
            raise ValueError(f"a block is whole vectors of {LANES} positions and a chunk whole blocks: {self}")

    @staticmethod
    def default() -> AttentionTile:
        """The tile for the instruction set that kernels are now written for."""
        if current().avx512:
            return AttentionTile()
        return AttentionTile(rows=6, heads=6, registers=6)

    def most_tokens(self, group: int) -> int:
        """Most tokens of a tile where `group` heads share a key: whole steps of `rows` rows, if it is for us to say."""
        if self.tokens is not None:
            return self.tokens
        unit = self.token_unit(group)
        return max(1, round(TILE_ROWS / (unit * group))) * unit

    def token_unit(self, group: int) -> int:
        """The fewest tokens that fill the registers without a rest."""
        return self.rows // math.gcd(self.rows, group)


TILE_ROWS = 264
"""Rows that share one conversion of keys and values; more of them would not fit into the second-level cache."""


@dataclass(frozen=True)
class Heads:
    """Query heads, key/value heads and the features of each."""

    heads: int
    kv_heads: int
    head_dim: int

    def __post_init__(self) -> None:
        if min(self.heads, self.kv_heads) < 1 or self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} query heads cannot share {self.kv_heads} key/value heads evenly")
        if self.head_dim < LANES or self.head_dim % LANES:
            raise ValueError(f"attention on llvm needs a head_dim that is a multiple of {LANES}, not {self.head_dim}")

    @property
    def group(self) -> int:
        """Query heads that share one key/value head."""
        return self.heads // self.kv_heads

    @property
    def vectors(self) -> int:
        return self.head_dim // LANES


@dataclass(frozen=True)
class Batch:
    """What the step's arguments say of each token."""

    n: Expr
    positions: Any
    slots: Any

    def position(self, token: Expr) -> Expr:
        return T.cast(self.positions[token], "int64")

    def slot(self, token: Expr) -> Expr:
        return T.cast(self.slots[token], "int64")


def ceildiv(a: Expr, b: int) -> Expr:
    """ceil(a / b) for a >= 0."""
    return T.truncdiv(a + (b - 1), T.int64(b))


def minimum(a: Expr, b: Expr) -> Expr:
    return tirx.Select(a < b, a, b)
