"""The shapes and decisions of the attention kernel, and where its data lies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from .math import keep
from .simd import LANES, Expr

REGISTERS = 24
"""Vector accumulators in the innermost loops; the other 8 of the 32 registers hold operands."""


@dataclass(frozen=True)
class AttentionTile:
    """The decisions of `cached_attention` that a tuner may change. Only `block` and `chunk` change the last bits."""

    tokens: int = 12
    """Tokens of one slot that go through the cache together; with the group's heads they are the rows of a tile."""
    rows: int = 6
    """Rows of a tile held in registers at once."""
    heads: int = 12
    """Heads held in registers at once where a token goes alone."""
    block: int = 64
    """Positions between two updates of the running maximum; a multiple of 16."""
    chunk: int = 256
    """Positions after which a partial result is closed and merged: the unit in which threads share a long context."""
    split_tokens: int = 8
    """Batches of up to so many tokens are spread over the threads by chunk, too."""

    def __post_init__(self) -> None:
        if min(self.tokens, self.rows, self.heads, self.block, self.chunk) < 1 or self.split_tokens < 0:
            raise ValueError(f"the sizes of an attention tile are positive: {self}")
        if max(self.rows, self.heads) > REGISTERS:
            raise ValueError(f"{max(self.rows, self.heads)} rows do not fit in {REGISTERS} registers")
        if self.block % LANES or self.chunk % self.block:
            raise ValueError(f"a block is whole vectors of {LANES} positions and a chunk whole blocks: {self}")


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
class Cache:
    """The paged cache of one layer: keys [page, head, block, d, 16], values [page, head, block, 16, d]."""

    keys: Any
    values: Any
    pages: Any
    blocks: Expr
    """Blocks of 16 positions in a page."""

    def place(self, slot: Expr, block: Expr) -> tuple[Expr, Expr]:
        """The page, and the block in it, of a slot's block of 16 positions. Emits bindings."""
        page = keep(T.cast(self.pages[slot, keep(T.truncdiv(block, self.blocks))], "int64"))
        return page, keep(T.truncmod(block, self.blocks))


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


@dataclass(frozen=True)
class Partial:
    """Softmax results that are not divided yet, by row: sum(p * v), the maximum they refer to, and sum(p) in 16
    parts.
    """

    out: Any
    top: Any
    total: Any
    at: tuple[Expr, ...] = ()
    """Leading indices of the three buffers."""

    @staticmethod
    def allocate(*lead: Expr, rows: Expr, head_dim: int) -> tuple[Any, Any, Any]:
        """Emit the three buffers."""
        shapes = ((*lead, rows, head_dim), (*lead, rows), (*lead, rows, LANES))
        out, top, total = (workspace(*shape) for shape in shapes)
        return out, top, total


def workspace(*shape: Expr, dtype: str = "float32") -> Any:
    """Emit a heap buffer of this shape (of two elements where the shape has one: TVM takes that for a scalar variable).

    The view keeps CompactBufferAllocation away, which shrinks an allocation to the indices that it sees: those that
    come from memory (see `keep`) it takes for a single one.
    """
    shape = (2,) if shape == (1,) else shape
    return T.decl_buffer(shape, dtype, data=T.alloc_buffer(shape, dtype).data)


def ceildiv(a: Expr, b: int) -> Expr:
    """ceil(a / b) for a >= 0."""
    return T.truncdiv(a + (b - 1), T.int64(b))


def minimum(a: Expr, b: Expr) -> Expr:
    return tirx.Select(a < b, a, b)
