"""What the kernels that prepare heads of an attention share: where heads lie, the cores' parts, the rotation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vamc_py.runstream.program import ROW_MAJOR_BLOCK
from vamc_py.schedules.vacc.intrinsics import vector
from vamc_py.schedules.vacc.loops import Expr, bound, serial, share


@dataclass(frozen=True)
class Heads:
    """The heads of `tokens` tokens in the rows of a merged projection: of q, then of k, then of v."""

    tokens: int
    heads: int
    kv_heads: int
    dim: int
    stride: int
    """From a row to the next one, in elements."""

    def __post_init__(self) -> None:
        if self.tokens != 1 and self.tokens % ROW_MAJOR_BLOCK:
            raise ValueError(
                f"keys lie in blocks of {ROW_MAJOR_BLOCK} tokens; {self.tokens} is neither 1 nor a multiple of it"
            )
        if self.dim % 2 or self.stride < self.width:
            raise ValueError(
                f"no rotation turns heads of {self.dim} features in rows of {self.width} that lie {self.stride} apart"
            )

    @property
    def width(self) -> int:
        """Columns of a row."""
        return (self.heads + 2 * self.kv_heads) * self.dim

    @property
    def elements(self) -> int:
        """From the first element of the first row to the last one of the last."""
        return (self.tokens - 1) * self.stride + self.width

    def begin(self, head: Expr, token: Expr) -> Expr:
        """Where a head begins; they are counted through q, k and v."""
        return bound("begin", token * self.stride + head * self.dim)

    def row_place(self, head: Expr, token: Expr, j: Expr) -> Expr:
        """In [heads, tokens, dim]."""
        return (head * self.tokens + token) * self.dim + j

    def key_place(self, head: Expr, token: Expr, j: Expr) -> Expr:
        """In [kv_heads, tokens / 16, dim, 16], as in the cache; of one token in [kv_heads, dim]."""
        if self.tokens == 1:
            return head * self.dim + j
        blocks = self.tokens // ROW_MAJOR_BLOCK
        block, inside = token // ROW_MAJOR_BLOCK, token % ROW_MAJOR_BLOCK
        return ((head * blocks + block) * self.dim + j) * ROW_MAJOR_BLOCK + inside

    def each(self, core: Expr, cores: int, count: int, instructions: int, one: Callable[[Expr, Expr], None]) -> None:
        """Emit one use of the vector unit: ``one(head, token)`` for a core's part of `count` heads of all tokens."""
        first, rows = share(count * self.tokens, core, cores)
        with vector(rows * self.dim, instructions), serial(rows, "i") as i:
            one(bound("head", (first + i) // self.tokens), bound("token", (first + i) % self.tokens))


def rotate(
    half: int,
    x: Callable[[Expr], Expr],
    cos: Callable[[Expr], Expr],
    sin: Callable[[Expr], Expr],
    store: Callable[[Expr, Expr], None],
) -> None:
    """Emit ``store(x[j] * cos[j] + turned[j] * sin[j], j)`` for each j; turned is the upper half of x, negated, and the
    lower one."""
    with serial(half, "j") as j:
        store(x(j) * cos(j) - x(half + j) * sin(j), j)
    with serial(half, "j") as j:
        store(x(half + j) * cos(half + j) + x(j) * sin(half + j), half + j)
