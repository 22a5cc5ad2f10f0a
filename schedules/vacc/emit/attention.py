"""R.vamc.qkv_attention: head preparation, the write into the caches, and attention over what they hold.

Queries go in blocks of tokens. Keys and values go through the caches in DDR, so that prefill and decoding read them
alike. Of a KV head, all query heads are rows of one product. A prefill of tokens from position 0 on reads the keys up
to the block's last token; decoding reads the whole context, as its shapes are fixed, and masks what lies behind its
position.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vamc_py.runstream.program import Dynamic, Term
from vamc_py.schedules.vacc import kernels
from vamc_py.schedules.vacc.emit import kv_cache
from vamc_py.schedules.vacc.emit.decisions import TILE, fitting
from vamc_py.schedules.vacc.emit.emitter import Emitter, window_of
from vamc_py.schedules.vacc.emit.kv_cache import KvCache
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

    One token stands at the register ``position``; several stand from position 0 on.
    """
    tokens = qkv.rows
    out = e.value("attended", tokens, one.heads * one.dim, out_dtype)
    named = {"q_norm": one.q_norm, "k_norm": one.k_norm, "k_offset": one.k_offset}
    constants = [e.constant(name, parameter) for name, parameter in named.items() if parameter is not None]
    step = _block_rows(e, one, tokens)
    for row in range(0, tokens, step):
        rows = min(step, tokens - row)
        queries = _prepare(e, one, qkv, row, rows, constants)
        positions = one.context if tokens == 1 else row + rows
        key_scales, value_scales = kv_cache.load_scales(e, one.cache, positions)
        for head in range(one.kv_heads):
            of_keys, of_values = (kv_cache.of_head(at, head, positions) for at in (key_scales, value_scales))
            keys = kv_cache.load_keys(e, one.cache, head, positions)
            values = kv_cache.load_values(e, one.cache, head, positions, of_values)
            scores = _scores(e, one, queries, head, rows, positions, keys, of_keys)
            weights = _softmax(e, one, scores, rows, positions, "position" if tokens == 1 else row)
            _average(e, one, weights, values, head, row, rows, positions, out)
    return out


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


def _scores(
    e: Emitter, one: Attention, queries: At, head: int, rows: int, positions: int, keys: At, key_scales: At | None
) -> At:
    """q k.T of the query heads of a KV head, times the scale of each key and that of all."""
    many = one.group * rows
    start = queries.offset + head * many * one.dim * HALF
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
        scale=key_scales is not None,
        alpha=one.scale,
        cores=e.cores,
    )
    scales = () if key_scales is None else (key_scales,)
    e.stage.launch(product, At(queries.place, start, many * one.dim * HALF), keys, *scales, scores)
    return scores


def _softmax(e: Emitter, one: Attention, scores: At, rows: int, positions: int, first: int | str) -> At:
    """float16 [group * rows, positions]; `first` is the position of the block's first token."""
    many = one.group * rows
    weights = e.output_slot("weights_of_values", many * positions, "float16")
    kernel = kernels.softmax(many, rows, positions, stride=positions, cores=e.cores)
    e.stage.launch(kernel, scores, weights, scalars=(first,))
    return weights


def _average(
    e: Emitter, one: Attention, weights: At, values: At, head: int, row: int, rows: int, positions: int, out: Value
) -> None:
    """The weighted sum of values, into the columns of the query heads of a KV head."""
    many = one.group * rows
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
