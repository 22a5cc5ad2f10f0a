"""The KV caches of an attention in DDR: writing new keys and values, and bringing those of a head to the matrix unit.

A cache is float16, or int8 with a float32 scale for each position and head (`dialect.int8_cache`). Integers go through
DDR and SSRAM as they are, then the vector unit makes float16 of them. Keys stay whole numbers, and their scales are the
product's. Values take their scales before they are rounded to float16: softmax weights would come so close to 0 with
them, where float16 has few digits (with 2,048 positions alike and values of 0.01 a fifth of the result).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

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
class Scales:
    """Those of int8 caches in SSRAM, of all heads: float32 [kv_heads][positions]."""

    keys: At
    values: At


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
    size = rows * cache.token
    if rows > 1:
        _store_heads(e, cache, new.keys, At(cache.keys, row * cache.token, size), cache.token)
    else:
        for head in range(cache.kv_heads):
            _store_key(e, cache, head, At(new.keys.place, new.keys.offset + head * size, size))
    _store_heads(e, cache, new.values, _at_position(cache.values, row, rows, cache.token), cache.token)
    for at, place in zip(new.scales, cache.scales, strict=True):
        _store_heads(e, cache, at, _at_position(place, row, rows, SCALE), SCALE)


def _at_position(place: Ddr, row: int, rows: int, token: int) -> At:
    """Of the first head, with `token` bytes for each position."""
    at = None if rows > 1 else Dynamic(register_name="position", terms=(Term(factor=token),))
    return At(place, row * token, rows * token, at=at)


def _store_heads(e: Emitter, cache: KvCache, source: At, first: At, token: int) -> None:
    """All heads at once; `first` is the place of the first one's, and a position of a head has `token` bytes."""
    heads = cache.kv_heads
    target = replace(first, rows=heads, stride=cache.context * token if heads > 1 else 0)
    e.stage.transfer("odma", At(source.place, source.offset, heads * first.row_bytes), target)


def _store_key(e: Emitter, cache: KvCache, head: int, source: At) -> None:
    """A key lies in a block of 16 positions, its features apart by those."""
    item = cache.token // cache.dim
    terms = (Term(divide=TILE, factor=cache.token * TILE), Term(modulo=TILE, factor=item))
    at = Dynamic(register_name="position", terms=terms)
    target = At(cache.keys, head * cache.context * cache.token, item, cache.dim, TILE * item, at)
    e.stage.transfer("odma", source, target)


def load_scales(e: Emitter, cache: KvCache, positions: int) -> Scales | None:
    """Of the first `positions`; nothing of float16."""
    if cache.key_scales is None or cache.value_scales is None:
        return None
    heads, size = cache.kv_heads, positions * SCALE
    keys, values = (
        e.loaded(
            At(place, 0, size, heads, cache.context * SCALE if heads > 1 else 0),
            e.output_slot(name, heads * positions, "float32"),
        )
        for place, name in ((cache.key_scales, "key_scales"), (cache.value_scales, "value_scales"))
    )
    return Scales(keys, values)


def load(e: Emitter, cache: KvCache, head: int, positions: int, scales: Scales | None) -> Head:
    """Keys and values of a head at the first `positions`, from DDR; `scales` are those of `load_scales`."""
    if scales is None:
        size = positions * cache.token
        places = ((cache.keys, "keys"), (cache.values, "values"))
        keys, values = (
            e.loaded(At(place, head * cache.context * cache.token, size), e.output_slot(name, size // 2, "float16"))
            for place, name in places
        )
        return Head(keys, values)
    of_keys, of_values = (
        At(at.place, at.offset + head * positions * SCALE, positions * SCALE) for at in (scales.keys, scales.values)
    )

    def exact(_first: int, count: int, stored: At, target: At) -> None:
        e.stage.launch(kernels.dequantize(count * cache.dim, cores=e.cores), stored, target)

    def scaled(first: int, count: int, stored: At, target: At) -> None:
        scale = At(of_values.place, of_values.offset + first * SCALE, count * SCALE)
        e.stage.launch(kernels.dequantize_rows(count, cache.dim, cores=e.cores), stored, scale, target)

    keys = _widened(e, cache, At(cache.keys, head * cache.context * cache.dim), "keys", positions, exact)
    values = _widened(e, cache, At(cache.values, head * cache.context * cache.dim), "values", positions, scaled)
    return Head(keys, values, of_keys)


def _widened(
    e: Emitter,
    cache: KvCache,
    source: At,
    name: str,
    positions: int,
    launch: Callable[[int, int, At, At], None],
) -> At:
    """A head's part of an int8 cache in float16: pieces of positions are loaded, then ``launch(first position,
    positions, int8, float16)``."""
    target = e.output_slot(name, positions * cache.dim, "float16")
    step = fitting(positions, e.decisions.weights // cache.dim)
    for first in range(0, positions, step):
        count = min(step, positions - first)
        at, size = first * cache.dim, count * cache.dim
        stored = e.loaded(At(source.place, source.offset + at, size), e.output_slot("stored", size, "int8"))
        launch(first, count, stored, At(target.place, target.offset + at * 2, size * 2))
    return target
