"""R.vamc.qkv_attention: head preparation, the write into the caches, and attention over what they hold.

Queries go in blocks of tokens. Keys and values go through the caches in DDR, so that prefill and decoding read them
alike. Of a KV head, all query heads are rows of one product. A prefill of tokens from position 0 on reads the keys up
to the block's last token; decoding reads the whole context, as its shapes are fixed, and masks what lies behind its
position.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vamc_py.errors import UserError
from vamc_py.runstream.program import Dynamic, Term
from vamc_py.schedules.vacc import kernels
from vamc_py.schedules.vacc.emit import kv_cache
from vamc_py.schedules.vacc.emit.decisions import TILE, fitting
from vamc_py.schedules.vacc.emit.emitter import Emitter, window_of
from vamc_py.schedules.vacc.emit.kv_cache import Head, KvCache
from vamc_py.schedules.vacc.emit.stage import At, Ddr
from vamc_py.schedules.vacc.emit.values import Parameter, Value

HALF = 2  # bytes of a float16


@dataclass(frozen=True)
class Attention:
    """A call of R.vamc.qkv_attention."""

    heads: int
    kv_heads: int
    dim: int
    scale: float
    epsilon: float
    context: int
    """Positions of the caches."""
    k_cache: Ddr
    """float16 or int8 [kv_heads][context / 16][dim][16]."""
    v_cache: Ddr
    """float16 or int8 [kv_heads][context][dim]."""
    cosines: Parameter
    """float32 [context, dim], as sines."""
    sines: Parameter
    q_norm: Parameter | None = None
    k_norm: Parameter | None = None
    k_offset: Parameter | None = None
    """float32 [kv_heads, dim], taken from rotated keys; with int8 caches alone."""
    k_scales: Ddr | None = None
    """float32 [kv_heads][context]: then both caches are int8."""
    v_scales: Ddr | None = None

    @property
    def cache(self) -> KvCache:
        """Both caches."""
        return KvCache(self.kv_heads, self.dim, self.context, self.k_cache, self.v_cache, self.k_scales, self.v_scales)

    @property
    def group(self) -> int:
        """Query heads of a KV head."""
        return self.heads // self.kv_heads

    @property
    def width(self) -> int:
        """Columns of the merged projection."""
        return (self.heads + 2 * self.kv_heads) * self.dim


def attend(e: Emitter, one: Attention, qkv: Value, out_dtype: Literal["float32", "float16"]) -> Value:
    """float32 [tokens, (heads + 2 kv_heads) dim] -> [tokens, heads * dim], float16 or float32 for what comes next.

    One token stands at the register ``position``; several stand from position 0 on. UserError for heads that are no
    multiple of the matrix tile.
    """
    if one.dim % TILE:
        raise UserError(f"heads of {one.dim} columns: the vacc target takes multiples of {TILE}")
    tokens = qkv.rows
    out = e.value("attended", tokens, one.heads * one.dim, out_dtype)
    named = {"q_norm": one.q_norm, "k_norm": one.k_norm, "k_offset": one.k_offset}
    constants = [e.constant(name, parameter) for name, parameter in named.items() if parameter is not None]
    step = _block_rows(e, one, tokens)
    for row in range(0, tokens, step):
        rows = min(step, tokens - row)
        queries = _prepare(e, one, qkv, row, rows, constants)
        positions = one.context if tokens == 1 else row + rows
        _heads(e, one, queries, _Block(row, rows, positions, tokens == 1), out)
    return out


@dataclass(frozen=True)
class _Block:
    """Tokens that attend together."""

    row: int
    rows: int
    positions: int
    """How many of the caches they read."""
    single: bool
    """Whether it is one token at the register ``position``."""


def _heads(e: Emitter, one: Attention, queries: At, block: _Block, out: Value) -> None:
    """Attention of all heads. The scores of the next KV head are multiplied while the vector unit makes weights of this
    one's."""
    waiting: tuple[int, At, At] | None = None  # head, weights and values of what is still to be averaged
    scales = kv_cache.load_scales(e, one.cache, block.positions)
    for head in range(one.kv_heads):
        held = kv_cache.load(e, one.cache, head, block.positions, scales)
        scores = _scores(e, one, queries, head, block, held)
        weights = _weights(e, one, scores, block)
        if waiting is not None:
            _average(e, one, *waiting, block, out)
        waiting = head, weights, held.values
    if waiting is not None:
        _average(e, one, *waiting, block, out)


def _block_rows(e: Emitter, one: Attention, tokens: int) -> int:
    """Tokens of a block: its scores, of all query heads of a KV head, have to fit."""
    most = min(e.decisions.scores // (one.group * 4 * max(tokens, TILE)), e.decisions.inputs // (one.width * 4))
    return fitting(tokens, most)


def _prepare(e: Emitter, one: Attention, qkv: Value, row: int, rows: int, constants: list[At]) -> At:
    """Normalized, rotated queries float16 [heads][rows][dim]; keys and values of the block are in the caches then."""
    source = qkv.block(row, rows)
    if not qkv.resident:
        source = e.loaded(source, e.output_slot("qkv", rows * one.width, "float32"))
    at = Dynamic(register_name="position", terms=(Term(factor=one.dim * 4),)) if rows == 1 else None
    angles = []
    for name, table in (("cosines", one.cosines), ("sines", one.sines)):
        window = window_of(table.place, row, rows, one.dim, 4)
        angles.append(
            e.loaded(
                At(window.place, window.offset, window.size, at=at), e.output_slot(name, rows * one.dim, "float32")
            )
        )
    queries = e.output_slot("queries", one.heads * rows * one.dim, "float16")
    new = kv_cache.new_tokens(e, one.cache, rows)
    sizes = (rows, one.heads, one.kv_heads, one.dim)
    norms = one.q_norm is not None
    if one.cache.scales:
        kernel = kernels.head_prep_int8(
            *sizes, qkv_stride=one.width, norms=norms, eps=one.epsilon, offset=one.k_offset is not None, cores=e.cores
        )
    else:
        kernel = kernels.head_prep(*sizes, qkv_stride=one.width, norms=norms, eps=one.epsilon, cores=e.cores)
    e.stage.launch(kernel, source, *constants, *angles, queries, new.keys, new.values, *new.scales)
    kv_cache.store(e, one.cache, row, rows, new)
    return queries


def _scores(e: Emitter, one: Attention, queries: At, head: int, block: _Block, held: Head) -> At:
    """q k.T of the query heads of a KV head, times the scale."""
    many = one.group * block.rows
    start = queries.offset + head * many * one.dim * HALF
    scores = e.output_slot("scores", many * block.positions, "float32")
    product = kernels.gemm(
        many,
        block.positions,
        one.dim,
        dtype="f16",
        a_stride=one.dim,
        b="panels",
        c_stride=block.positions,
        out="float32",
        scale=held.key_scales is not None,
        alpha=one.scale,
        cores=e.cores,
    )
    scales = () if held.key_scales is None else (held.key_scales,)
    e.stage.launch(product, At(queries.place, start, many * one.dim * HALF), held.keys, *scales, scores)
    return scores


def _weights(e: Emitter, one: Attention, scores: At, block: _Block) -> At:
    """softmax(scores), float16."""
    many = one.group * block.rows
    weights = e.output_slot("weights_of_values", many * block.positions, "float16")
    softmax = kernels.softmax(many, block.rows, block.positions, stride=block.positions, cores=e.cores)
    e.stage.launch(softmax, scores, weights, scalars=("position" if block.single else block.row,))
    return weights


def _average(e: Emitter, one: Attention, head: int, weights: At, values: At, block: _Block, out: Value) -> None:
    """weights v into the columns of the query heads of a KV head."""
    rows, stride, itemsize = block.rows, out.columns, out.itemsize
    place = out if out.resident else Value(rows, stride, out.dtype, _attended(e, one, rows, out).place)
    first = block.row if out.resident else 0
    column = head * one.group * one.dim
    lies = _rows_of_heads(one, rows, stride * itemsize, one.dim * itemsize)
    target = At(place.place, (first * stride + column) * itemsize, *lies)
    average = kernels.gemm(
        one.group * rows,
        one.dim,
        block.positions,
        dtype="f16",
        a_stride=block.positions,
        b="rows",
        b_stride=one.dim,
        c_stride=stride,
        c_block=(rows, one.dim),
        out="float16" if out.dtype == "float16" else "float32",
        cores=e.cores,
    )
    e.stage.launch(average, weights, values, target)
    if not out.resident:
        e.stage.transfer("odma", target, out.window(block.row, rows, column, one.group * one.dim))


def _rows_of_heads(one: Attention, rows: int, stride: int, width: int) -> tuple[int, int, int]:
    """Size, rows and stride of the columns of a KV head's query heads in `rows` tokens."""
    return (one.group * width, rows, stride) if rows > 1 else (one.group * width, 1, 0)


def _attended(e: Emitter, one: Attention, rows: int, out: Value) -> At:
    """A block of results before it goes to DDR."""
    return e.output_slot("attended", rows * out.columns, out.dtype)
