"""w8a16 on vpmaddwd, for CPUs without VNNI: int8 weights times activations of 16 bits, exact until the epilogue.

A row x becomes s = max|x| / 32512 and a = round(x / s), as in `gemm_int8`, but a stays one int16: vpmaddwd multiplies
16 bits by 16 bits, and two int8 digits would need it twice. Of the unsigned weights w + 128 the even and the odd bytes
become 16-bit words, which meet the words 0, 2 and 1, 3 of each four activations: that is how a row of them lies in
memory. The int32 sums start at -128 * sum(a), which takes the offset back.

512 products of 16 by 8 bits fit into an int32; after each such block the sums go as 256 * high + low to two others,
which stay exact. The result is (256 * high + low) * (s * scale) + bias + residual: to the last bit what `gemm_int8`
gives wherever its digits' sums are exact in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm.script import tirx as T

from . import simd
from .digits import LARGEST
from .gemm import LinearTile, Output, Place, Steps, walk
from .layout import PANEL, QUAD, ZERO_POINT
from .prologue import RowSource, each_row, kept_row
from .row_quantization import largest_of, rounded, scale_and_inverse
from .simd import BYTES, LANES, Expr

BLOCK = 512  # columns whose products fit into an int32: 512 * 32512 * 128 < 2**31
STEPS = BLOCK // QUAD


@dataclass(frozen=True)
class Words:
    """The quantized activations."""

    pairs: Any
    """int32[n, stride]: of each four columns the words 0 and 2, then 1 and 3, the first in the low half."""
    offsets: Any
    """int32[n, blocks]: -128 times the sum of each block of a row."""
    scales: Any
    """float32[n]: s."""


def emit_int16(source: RowSource, weight: Any, output: Output, n: Expr, columns: int, tile: LinearTile) -> None:
    """Emit the kernel: the n rows of `source` times the packed int8 weight into `output`."""
    blocks = -(-columns // BLOCK)
    # One line more than the row needs: rows a multiple of 4096 bytes apart would all fall into one set of the cache.
    stride = -(-columns // (2 * LANES)) * LANES + LANES
    words = Words(
        simd.named("pairs", T.alloc_buffer((n, stride), "int32")),
        simd.named("offsets", T.alloc_buffer((n, blocks), "int32")),
        simd.named("scales", T.alloc_buffer((n,), "float32")),
    )
    each_row(n, lambda row: _quantize(kept_row(source, row), row, words))
    steps = Steps(-(-columns // QUAD), max(tile.part // BLOCK, 1) * STEPS, sums=2)
    walk(n, output.features, tile, lambda place: _tile(words, weight, output, steps.total, place), steps)


def _tile(words: Words, weight: Any, output: Output, steps: int, place: Place) -> None:
    block_sums = _sums(place.rows, place)

    def block(index: Expr, count: Expr) -> None:
        for r, row_sums in enumerate(block_sums):
            for total in row_sums:
                simd.store(total, simd.splat(words.offsets[place.row + r, index]), 0)
        first = T.bind(index * STEPS)
        with T.serial(0, count) as step:
            _step(words, weight, place, first + simd.named("step", step), block_sums)

    output.fetch(place)
    if steps <= STEPS:
        block(T.int32(0), steps)
        _write(words, output, place, lambda r, c: T.cast(simd.load(block_sums[r][c], 0), "float32x16"))
        return
    sums = _sums(2 * place.rows, place)  # of each row the low, then the high part
    first, count = (T.int32(0), T.int32(steps)) if place.part is None else (place.part.first, place.part.count)
    place.resume(sums, lambda _row: T.broadcast(T.int32(0), LANES))
    first_block = simd.opaque(first // STEPS, "first_block")
    with T.serial(0, (count + (STEPS - 1)) // STEPS) as i:
        index = T.bind(first_block + i)
        block(index, T.min(STEPS, steps - index * STEPS))
        for r, row_sums in enumerate(block_sums):
            for total, low, high in zip(row_sums, sums[2 * r], sums[2 * r + 1], strict=True):
                value = T.bind(simd.load(total, 0))
                part = T.shift_right(value, T.broadcast(T.int32(8), LANES))
                simd.store(high, simd.load(high, 0) + part, 0)
                simd.store(low, simd.load(low, 0) + (value & T.broadcast(T.int32(255), LANES)), 0)
    place.suspend(sums, lambda: _write(words, output, place, lambda r, c: _joined(sums[2 * r + 1][c], sums[2 * r][c])))


def _sums(rows: int, place: Place) -> list[list[Any]]:
    return [[simd.scratch((LANES,), "int32") for _ in place.columns] for _ in range(rows)]


def _write(words: Words, output: Output, place: Place, value: Callable[[int, int], Expr]) -> None:
    """Emit the output of the tile, ``value(row, column)`` of it being the exact sums as float32."""
    for r in range(place.rows):
        scale = T.bind(words.scales[place.row + r])
        for c, (panel, v) in enumerate(place.columns):
            output.write(value(r, c), scale, place.row + r, panel, v)


def _step(words: Words, weight: Any, place: Place, step: Expr, sums: list[list[Any]]) -> None:
    """Emit four columns of the tile."""
    for panel, at, line in place.prefetch(step, PANEL * QUAD // BYTES):
        simd.prefetch(weight, panel, at, line, 0, 0)
    pairs = [
        [simd.bits(T.broadcast(words.pairs[place.row + r, step * 2 + parity], LANES), "int16x32") for parity in (0, 1)]
        for r in range(place.rows)
    ]
    for c, (panel, v) in enumerate(place.columns):
        weights = T.bind(simd.load(weight, panel, step, v, 0, 0, count=BYTES))
        even, odd = simd.even_unsigned_bytes(weights), simd.odd_unsigned_bytes(weights)
        for row_sums, (even_pairs, odd_pairs) in zip(sums, pairs, strict=True):
            product = simd.multiply_pairs(even, even_pairs) + simd.multiply_pairs(odd, odd_pairs)
            simd.store(row_sums[c], simd.load(row_sums[c], 0) + product, 0)


def _joined(high: Any, low: Any) -> Expr:
    """256 * high + low as float32."""
    upper, lower = (T.cast(simd.load(part, 0), "float32x16") for part in (high, low))
    return simd.fma(upper, simd.splat(256.0), lower)


def _quantize(source: RowSource, row: Expr, words: Words) -> None:
    """Emit the words, offsets and scale of one row. NaN and infinity in x become NaN or infinity in the scale."""
    scale, inverse = scale_and_inverse(largest_of(source.each), LARGEST)
    T.buffer_store(words.scales, scale, [row])
    blocks = -(-source.columns // BLOCK)
    totals = T.alloc_buffer((blocks, LANES), "int32")
    with T.serial(0, blocks) as block:
        simd.store(totals, T.broadcast(T.int32(0), LANES), block, 0)

    def write(piece: Expr, column: Expr | int) -> None:
        whole = T.bind(rounded(piece, inverse))
        block = column // BLOCK
        simd.store(totals, simd.load(totals, block, 0) + whole, block, 0)
        simd.store(words.pairs, _paired(T.cast(whole, "int16x16")), row, column // 2, count=LANES // 2)

    source.each(write)
    with T.serial(0, blocks) as block:
        total = simd.fold_sum(simd.load(totals, block, 0), "int32")
        T.buffer_store(words.offsets, total * -ZERO_POINT, [row, block])


def _paired(words: Expr) -> Expr:
    """int16x16 as int32x8 with words 1 and 2 of each four exchanged."""
    quads = T.bind(simd.bits(words, "int64x4"))

    def every(value: int) -> Expr:
        return T.broadcast(T.int64(value), 4)

    outer, second, sixteen = every(~0xFFFFFFFF0000), every(0xFFFF0000), every(16)
    third = T.shift_right(quads, sixteen) & second
    return simd.bits((quads & outer) | T.shift_left(quads & second, sixteen) | third, "int32x8")
