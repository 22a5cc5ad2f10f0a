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
from vamc_py.schedules.vacc.emit.decisions import TILE, fitting
from vamc_py.schedules.vacc.emit.emitter import Emitter, window_of
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
    """float16 [kv_heads][context / 16][dim][16]."""
    v_cache: Ddr
    """float16 [kv_heads][context][dim]."""
    cosines: Parameter
    """float32 [context, dim], as sines."""
    sines: Parameter
    q_norm: Parameter | None = None
    k_norm: Parameter | None = None

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
    norms = [e.constant(name, p) for name, p in (("q_norm", one.q_norm), ("k_norm", one.k_norm)) if p is not None]
    step = _block_rows(e, one, tokens)
    for row in range(0, tokens, step):
        rows = min(step, tokens - row)
        queries = _prepare(e, one, qkv, row, rows, norms)
        positions = one.context if tokens == 1 else row + rows
        for head in range(one.kv_heads):
            _head(e, one, queries, head, row, rows, positions, tokens == 1, out)
    return out


def _block_rows(e: Emitter, one: Attention, tokens: int) -> int:
    """Tokens of a block: its scores, of all query heads of a KV head, have to fit."""
    most = min(e.decisions.scores // (one.group * 4 * max(tokens, TILE)), e.decisions.inputs // (one.width * 4))
    return fitting(tokens, most)


def _prepare(e: Emitter, one: Attention, qkv: Value, row: int, rows: int, norms: list[At]) -> At:
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
    keys = e.output_slot("new_keys", one.kv_heads * rows * one.dim, "float16")
    values = e.output_slot("new_values", one.kv_heads * rows * one.dim, "float16")
    kernel = kernels.head_prep(
        rows,
        one.heads,
        one.kv_heads,
        one.dim,
        qkv_stride=one.width,
        norms=bool(norms),
        eps=one.epsilon,
        cores=e.cores,
    )
    e.stage.launch(kernel, source, *norms, *angles, queries, keys, values)
    _store(e, one, row, rows, keys, values)
    return queries


def _store(e: Emitter, one: Attention, row: int, rows: int, keys: At, values: At) -> None:
    size = rows * one.dim * HALF
    cache = one.context * one.dim * HALF  # bytes of a head
    if rows > 1:
        heads = one.kv_heads
        for at, cache_of in ((keys, one.k_cache), (values, one.v_cache)):
            target = At(cache_of, row * one.dim * HALF, size, heads, cache if heads > 1 else 0)
            e.stage.transfer("odma", At(at.place, at.offset, heads * size), target)
        return
    block = one.dim * TILE * HALF
    at_key = Dynamic(register_name="position", terms=(Term(divide=TILE, factor=block), Term(modulo=TILE, factor=HALF)))
    at_value = Dynamic(register_name="position", terms=(Term(factor=one.dim * HALF),))
    for head in range(one.kv_heads):
        source_at = At(keys.place, keys.offset + head * size, size)
        place = At(one.k_cache, head * cache, HALF, one.dim, TILE * HALF, at_key)
        e.stage.transfer("odma", source_at, place)
        source_at = At(values.place, values.offset + head * size, size)
        e.stage.transfer("odma", source_at, At(one.v_cache, head * cache, size, at=at_value))


def _head(
    e: Emitter, one: Attention, queries: At, head: int, row: int, rows: int, positions: int, single: bool, out: Value
) -> None:
    """softmax(q k.T) v of the query heads of one KV head."""
    size = positions * one.dim * HALF
    cache = one.context * one.dim * HALF
    keys = e.loaded(At(one.k_cache, head * cache, size), e.output_slot("keys", positions * one.dim, "float16"))
    values = e.loaded(At(one.v_cache, head * cache, size), e.output_slot("values", positions * one.dim, "float16"))
    many = one.group * rows
    start = queries.offset + head * one.group * rows * one.dim * HALF
    scores = e.output_slot("scores", many * positions, "float32")
    product = kernels.gemm(
        many,
        positions,
        one.dim,
        dtype="f16",
        a_stride=one.dim,
        b="panels",
        c_stride=positions,
        out="float32",
        alpha=one.scale,
        cores=e.cores,
    )
    e.stage.launch(product, At(queries.place, start, many * one.dim * HALF), keys, scores)
    weights = e.output_slot("weights_of_values", many * positions, "float16")
    softmax = kernels.softmax(many, rows, positions, stride=positions, cores=e.cores)
    e.stage.launch(softmax, scores, weights, scalars=("position" if single else row,))
    itemsize = out.itemsize
    place = out if out.resident else Value(rows, out.columns, out.dtype, _attended(e, one, rows, out).place)
    first = row if out.resident else 0
    width = one.dim * itemsize
    stride = out.columns
    column = head * one.group * one.dim
    target = At(place.place, (first * stride + column) * itemsize, *_rows_of_heads(one, rows, stride * itemsize, width))
    average = kernels.gemm(
        many,
        one.dim,
        positions,
        dtype="f16",
        a_stride=positions,
        b="rows",
        b_stride=one.dim,
        c_stride=stride,
        c_block=(rows, one.dim),
        out="float16" if out.dtype == "float16" else "float32",
        cores=e.cores,
    )
    e.stage.launch(average, weights, values, target)
    if not out.resident:
        columns = one.group * one.dim
        e.stage.transfer("odma", target, out.window(row, rows, column, columns))


def _rows_of_heads(one: Attention, rows: int, stride: int, width: int) -> tuple[int, int, int]:
    """Size, rows and stride of the columns of a KV head's query heads in `rows` tokens."""
    return (one.group * width, rows, stride) if rows > 1 else (one.group * width, 1, 0)


def _attended(e: Emitter, one: Attention, rows: int, out: Value) -> At:
    """A block of results before it goes to DDR."""
    return e.output_slot("attended", rows * out.columns, out.dtype)
