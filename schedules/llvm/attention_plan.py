"""Which tokens of a batch go through the cache together: tiles of one slot, and tokens alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm.script import tirx as T

from . import simd
from .attention_tile import AttentionTile, Batch, Heads, ceildiv, minimum
from .simd import Expr, keep, workspace

FEWEST_TASKS = 16
"""Tiles become smaller where there would be fewer tasks than this, down to a step of registers."""


@dataclass(frozen=True)
class Plan:
    """Tiles: `tokens[i]` tokens from `first[i]` on, for i < tiles. Tokens alone: `alone[i]` for i < singles."""

    first: Any
    tokens: Any
    alone: Any
    tiles: Expr
    singles: Expr


def plan_batch(heads: Heads, tile: AttentionTile, batch: Batch) -> Plan:
    """Emit the plan of a batch; a slot with more than ``tile.split_tokens`` tokens in it goes in tiles.

    The last tile of a slot, which sees most, comes first, so that the threads end together.
    """
    n, unit = batch.n, tile.token_unit(heads.group)
    most = tile.most_tokens(heads.group)
    wanted = ceildiv(ceildiv(n * heads.kv_heads, FEWEST_TASKS), unit) * unit
    size = keep(minimum(wanted, T.int64(most)))
    first, tokens, alone = (workspace(n, dtype="int32") for _ in range(3))
    begin, tiles, singles = (simd.scratch((1,), "int64") for _ in range(3))
    for counter in (begin, tiles, singles):
        T.buffer_store(counter, T.int64(0), [0])
    with T.serial(0, n) as token:
        following = keep(minimum(token + 1, n - 1))
        ends = T.Or(token + 1 == n, batch.slots[following] != batch.slots[token])
        with T.If(ends), T.Then():
            start = keep(begin[0])
            length = keep(token + 1 - start)
            with T.If(length > tile.split_tokens):
                with T.Then():
                    count = keep(T.truncdiv(length + (size - 1), size))
                    with T.serial(0, count) as back:
                        offset = keep((count - 1 - back) * size)
                        at = keep(tiles[0] + back)
                        T.buffer_store(first, T.cast(start + offset, "int32"), [at])
                        T.buffer_store(tokens, T.cast(minimum(size, length - offset), "int32"), [at])
                    T.buffer_store(tiles, tiles[0] + count, [0])
                with T.Else():
                    with T.serial(0, length) as i:
                        T.buffer_store(alone, T.cast(start + i, "int32"), [keep(singles[0] + i)])
                    T.buffer_store(singles, singles[0] + length, [0])
            T.buffer_store(begin, token + 1, [0])
    return Plan(first, tokens, alone, keep(tiles[0]), keep(singles[0]))
