"""What the threads do in attention: the write into the cache, then tiles, tokens and chunks as tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tvm.script import tirx as T

from . import simd
from .attention_cache import Cache
from .attention_chunk import Scratch, TokenHeads, attend_chunk
from .attention_input import Inputs
from .attention_partial import Partial, clear, finish, merge
from .attention_plan import plan_batch
from .attention_prefill import Tiles
from .attention_tile import AttentionTile, Batch, Heads, ceildiv, minimum
from .launch import SERIAL_ELEMENTS
from .simd import LANES, Expr, keep, workspace


@dataclass(frozen=True)
class Attention:
    """The kernel's body; `emit` it once."""

    heads: Heads
    tile: AttentionTile
    tiles: Tiles
    cache: Cache
    batch: Batch
    inputs: Inputs
    out: Any

    def emit(self) -> None:
        single = self._single_tokens()
        with T.If(single == 0), T.Then():
            self._write()
        if self.tile.split_tokens == 0:
            return self._by_plan(single)
        longest = self._longest_context()
        with T.If(T.And(self.batch.n <= self.tile.split_tokens, longest > self.tile.chunk)):
            with T.Then():
                self._by_chunk(single, longest)
            with T.Else():
                self._by_plan(single)

    def _single_tokens(self) -> Expr:
        """1 where no slot has more than one token in the batch, else 0."""
        single = simd.scratch((1,), "int32")
        T.buffer_store(single, T.int32(1), [0])
        slots = self.batch.slots
        with T.serial(1, self.batch.n) as token, T.If(slots[token] == slots[token - 1]), T.Then():
            T.buffer_store(single, T.int32(0), [0])
        return keep(single[0])

    def _longest_context(self) -> Expr:
        """Of the first tokens, as many as a batch may have that is split by chunk."""
        longest = simd.scratch((1,), "int64")
        T.buffer_store(longest, T.int64(0), [0])
        with T.serial(0, minimum(self.batch.n, T.int64(self.tile.split_tokens))) as token:
            T.buffer_store(longest, T.max(longest[0], self.batch.position(token) + 1), [0])
        return keep(longest[0])

    def _write(self) -> None:
        """Keys and values into the cache, 16 tokens at once where they fill a block of it."""
        batch, last = self.batch, LANES - 1

        def same_slot(first: Expr) -> Expr:
            """Whether the tokens `first` … `first + 15` exist and are of one slot."""
            end = keep(minimum(first + last, batch.n - 1))
            return T.And(first + last < batch.n, batch.slots[end] == batch.slots[first])

        def window(task: Expr) -> None:
            index = keep(T.truncdiv(task, T.int64(self.heads.kv_heads)))
            head = keep(T.truncmod(task, T.int64(self.heads.kv_heads)))
            with T.serial(index * LANES, minimum((index + 1) * LANES, batch.n)) as token:
                lane = keep(T.truncmod(batch.position(token), T.int64(LANES)))
                first = keep(T.max(token - lane, T.int64(0)))  # of the block's tokens, if they are all here
                whole = keep(T.And(T.And(token >= lane, batch.slots[first] == batch.slots[token]), same_slot(first)))
                with T.If(whole):
                    with T.Then(), T.If(lane == 0), T.Then():
                        self.inputs.write_block(self.cache, batch, token, head)
                    with T.Else():
                        self.inputs.write(self.cache, batch, token, head)

        elements = batch.n * (self.heads.kv_heads * self.heads.head_dim)
        _each(ceildiv(batch.n, LANES) * self.heads.kv_heads, elements <= SERIAL_ELEMENTS // 4, window)

    def _token_heads(self, token: Expr, head: Expr) -> TokenHeads:
        """The group's heads of one token, in as few, equal steps as the registers allow."""
        group = self.heads.group
        step = -(-group // -(-group // self.tile.heads))
        capacity = -(-group // step) * step
        queries = workspace(capacity, self.heads.head_dim)

        def store(member: Expr, first: Expr, vector: Expr) -> None:
            simd.store(queries, vector, member, first)

        self.inputs.read_queries(token, head, store)
        return TokenHeads(queries, head, keep(self.batch.slot(token)), group, step)

    def _by_plan(self, single: Expr) -> None:
        """Tiles of tokens of one slot, and tokens alone as tasks after all tiles."""
        kv_heads = self.heads.kv_heads
        plan = plan_batch(self.heads, self.tile, self.batch)
        with _in_turn((plan.tiles + plan.singles) * kv_heads) as task:
            index = keep(T.truncdiv(task, T.int64(kv_heads)))
            head = keep(T.truncmod(task, T.int64(kv_heads)))
            with T.If(index < plan.tiles):
                with T.Then():
                    first, tokens = (keep(T.cast(x[index], "int64")) for x in (plan.first, plan.tokens))
                    self.tiles.attend(first, tokens, head)
                with T.Else():
                    token = keep(T.cast(plan.alone[index - plan.tiles], "int64"))
                    with T.If(single != 0), T.Then():
                        self.inputs.write(self.cache, self.batch, token, head)
                    self._whole_context(token, head)

    def _whole_context(self, token: Expr, head: Expr) -> None:
        """The attention of one token, chunk by chunk."""
        dim, chunk = self.heads.head_dim, self.tile.chunk
        end = keep(self.batch.position(token) + 1)
        rows = self._token_heads(token, head)
        scratch = Scratch.allocate(rows.capacity, self.tile)
        result = Partial(*Partial.allocate(rows=rows.capacity, head_dim=dim))
        part = Partial(*Partial.allocate(rows=rows.capacity, head_dim=dim))
        clear(self.heads, T.int64(rows.count), result)
        with T.serial(0, ceildiv(end, chunk)) as index:
            start = keep(index * chunk)
            stop = keep(minimum(start + chunk, end))
            attend_chunk(self.heads, self.tile, self.cache, rows, scratch, start, stop, part)
            merge(self.heads, T.int64(rows.count), result, part)
        finish(self.heads, token, head, T.int64(rows.count), result, self.out)

    def _by_chunk(self, single: Expr, longest: Expr) -> None:
        """Each chunk of each token's context on its own, then the merge by token."""
        n, kv_heads, chunk, dim = self.batch.n, self.heads.kv_heads, self.tile.chunk, self.heads.head_dim
        group = self.heads.group
        chunks = keep(ceildiv(longest, chunk))
        # TVM moves the allocation to the function's start, so its size has to follow from the arguments' shapes alone
        most = minimum(n, T.int64(self.tile.split_tokens)) * ceildiv(
            self.cache.pages.shape[1] * self.cache.blocks * LANES, chunk
        )
        step = -(-group // -(-group // self.tile.heads))
        parts = Partial.allocate(most, kv_heads, rows=-(-group // step) * step, head_dim=dim)
        with _in_turn(n * kv_heads * chunks) as task:
            # tokens innermost: the threads are at the same place of the cache when tokens share a slot
            token = keep(T.truncmod(task, n))
            head = keep(T.truncmod(T.truncdiv(task, n), T.int64(kv_heads)))
            index = keep(T.truncdiv(task, n * kv_heads))
            start, end = keep(index * chunk), keep(self.batch.position(token) + 1)
            with T.If(start < end), T.Then():
                stop = keep(minimum(start + chunk, end))
                with T.If(T.And(single != 0, stop == end)), T.Then():
                    self.inputs.write(self.cache, self.batch, token, head)
                rows = self._token_heads(token, head)
                scratch = Scratch.allocate(rows.capacity, self.tile)
                part = Partial(*parts, at=(keep(token * chunks + index), head))
                attend_chunk(self.heads, self.tile, self.cache, rows, scratch, start, stop, part)

        def merged(task: Expr) -> None:
            token = keep(T.truncdiv(task, T.int64(kv_heads)))
            head = keep(T.truncmod(task, T.int64(kv_heads)))
            result = Partial(*Partial.allocate(rows=group, head_dim=dim))
            clear(self.heads, T.int64(group), result)
            with T.serial(0, ceildiv(self.batch.position(token) + 1, chunk)) as index:
                part = Partial(*parts, at=(keep(token * chunks + index), head))
                merge(self.heads, T.int64(group), result, part)
            finish(self.heads, token, head, T.int64(group), result, self.out)

        _each(n * kv_heads, n * chunks * (self.heads.heads * dim) <= SERIAL_ELEMENTS, merged)


@contextmanager
def _in_turn(extent: Expr) -> Iterator[Expr]:
    """A parallel loop whose threads take every k-th task: neighbours in number cost the same, ends may differ."""
    with (
        T.attr(0, "pragma_parallel_launch_point", 1),
        T.attr(0, "pragma_parallel_stride_pattern", 1),
        T.parallel(0, extent) as task,
    ):
        yield task


def _each(extent: Expr, small: Expr, body: Callable[[Expr], None]) -> None:
    """Emit ``body(i)`` for i < extent, on all threads unless the work is `small`."""
    with T.If(small):
        with T.Then(), T.serial(0, extent) as task:
            body(task)
        with T.Else(), T.parallel(0, extent) as task:
            body(task)
