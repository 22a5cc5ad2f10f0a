"""The KV caches of an attention in DDR: writing new keys and values, and bringing those of a head to the matrix unit.

A cache is float16, or int8 with a float32 scale for each position and head (`dialect.int8_cache`). Integers go through
DDR and SSRAM as they are, then the vector unit makes float16 of them. Keys stay whole numbers, and their scales are the
product's. Values take their scales before they are rounded to float16: softmax weights would come so close to 0 with
them, where float16 has few digits (with 2,048 positions alike and values of 0.01 a fifth of the result).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vamc_py.runstream.program import Dynamic, Term
from vamc_py.schedules.vacc import kernels
from vamc_py.schedules.vacc.emit.decisions import TILE, fitting
from vamc_py.schedules.vacc.emit.emitter import Emitter
from vamc_py.schedules.vacc.emit.stage import At, Ddr

SCALE = 4  # bytes of a float32


@dataclass(frozen=True)
class KvCache:
    """Both caches of an attention."""

    kv_heads: int
    dim: int
    context: int
    """Positions."""
    keys: Ddr
    """float16 or int8 [kv_heads][context / 16][dim][16]."""
    values: Ddr
    """float16 or int8 [kv_heads][context][dim]."""
    key_scales: Ddr | None = None
    """float32 [kv_heads][context], of int8."""
    value_scales: Ddr | None = None

    @property
    def dtype(self) -> str:
        """Of keys and values."""
        return "float16" if self.key_scales is None else "int8"

    @property
    def token(self) -> int:
        """Bytes of a head's key or value."""
        return self.dim * (2 if self.key_scales is None else 1)

    @property
    def scales(self) -> tuple[Ddr, ...]:
        """Those of keys, then those of values; none of float16."""
        return () if self.key_scales is None or self.value_scales is None else (self.key_scales, self.value_scales)


@dataclass(frozen=True)
class New:
    """Keys and values of some tokens in SSRAM, as a kernel that prepares heads gives them."""

    keys: At
    values: At
    scales: tuple[At, ...] = ()
    """float32 [kv_heads][tokens] of keys and of values, of int8."""


@dataclass(frozen=True)
class Head:
    """Keys and values of a KV head as the matrix unit takes them."""

    keys: At
    """float16 panels of 16 positions."""
    values: At
    """float16 [positions, dim]."""
    key_scales: At | None = None
    """float32 [positions], which the scores are multiplied by."""


def new_tokens(e: Emitter, cache: KvCache, rows: int) -> New:
    """Places for keys and values of `rows` tokens on their way into the caches."""
    count = cache.kv_heads * rows
    scales = tuple(e.output_slot(f"new_{name}_scales", count, "float32") for name in ("key", "value") if cache.scales)
    return New(
        e.output_slot("new_keys", count * cache.dim, cache.dtype),
        e.output_slot("new_values", count * cache.dim, cache.dtype),
        scales,
    )


def store(e: Emitter, cache: KvCache, row: int, rows: int, new: New) -> None:
    """Into the caches: several tokens from position `row` on, or one at the register ``position``."""
    heads, size = cache.kv_heads, rows * cache.token
    whole = cache.context * cache.token  # bytes of a head
    if rows > 1:
        for at, place in ((new.keys, cache.keys), (new.values, cache.values)):
            target = At(place, row * cache.token, size, heads, whole if heads > 1 else 0)
            e.stage.transfer("odma", At(at.place, at.offset, heads * size), target)
    else:
        for head in range(heads):
            _store_one(e, cache, head, At(new.keys.place, new.keys.offset + head * size, size), keys=True)
            _store_one(e, cache, head, At(new.values.place, new.values.offset + head * size, size), keys=False)
    here = None if rows > 1 else Dynamic(register_name="position", terms=(Term(factor=SCALE),))
    for at, place in zip(new.scales, cache.scales, strict=True):
        stride = cache.context * SCALE if heads > 1 else 0
        target = At(place, row * SCALE, rows * SCALE, heads, stride, here)
        e.stage.transfer("odma", At(at.place, at.offset, heads * rows * SCALE), target)


def _store_one(e: Emitter, cache: KvCache, head: int, source: At, *, keys: bool) -> None:
    """The key of a token lies in a block of 16 positions, a feature apart from the next by those."""
    start = head * cache.context * cache.token
    if not keys:
        at_value = Dynamic(register_name="position", terms=(Term(factor=cache.token),))
        e.stage.transfer("odma", source, At(cache.values, start, cache.token, at=at_value))
        return
    item = cache.token // cache.dim
    terms = (Term(divide=TILE, factor=cache.token * TILE), Term(modulo=TILE, factor=item))
    at_key = Dynamic(register_name="position", terms=terms)
    e.stage.transfer("odma", source, At(cache.keys, start, item, cache.dim, TILE * item, at_key))


def load(e: Emitter, cache: KvCache, head: int, positions: int) -> Head:
    """Keys and values of a head at the first `positions`, from DDR."""
    start = head * cache.context * cache.token
    keys, values = (e.output_slot(name, positions * cache.dim, "float16") for name in ("keys", "values"))
    if not cache.scales:
        for place, target in ((cache.keys, keys), (cache.values, values)):
            e.loaded(At(place, start, positions * cache.token), target)
        return Head(keys, values)
    scales = [
        e.loaded(At(place, head * cache.context * SCALE, positions * SCALE), e.output_slot(name, positions, "float32"))
        for place, name in zip(cache.scales, ("key_scales", "value_scales"), strict=True)
    ]

    def exact(_first: int, count: int, stored: At, target: At) -> None:
        e.stage.launch(kernels.dequantize(count * cache.dim, cores=e.cores), stored, target)

    def scaled(first: int, count: int, stored: At, target: At) -> None:
        scale = At(scales[1].place, scales[1].offset + first * SCALE, count * SCALE)
        e.stage.launch(kernels.dequantize_rows(count, cache.dim, cores=e.cores), stored, scale, target)

    _widen(e, cache, At(cache.keys, start), positions, keys, exact)
    _widen(e, cache, At(cache.values, start), positions, values, scaled)
    return Head(keys, values, scales[0])


def _widen(
    e: Emitter,
    cache: KvCache,
    source: At,
    positions: int,
    target: At,
    launch: Callable[[int, int, At, At], None],
) -> None:
    """``launch(first, count, int8, float16)`` for pieces of positions, each loaded before."""
    step = fitting(positions, e.decisions.weights // cache.dim)
    for first in range(0, positions, step):
        count = min(step, positions - first)
        size = count * cache.dim
        stored = e.output_slot("stored", size, "int8")
        e.loaded(At(source.place, source.offset + first * cache.dim, size), stored)
        launch(first, count, stored, At(target.place, target.offset + first * cache.dim * 2, size * 2))
