"""int8 weights times activations of 8 bits that are quantized by row and group of columns, on vpdpbusd.

A group of `group` columns of a row x (the last one may be shorter) becomes s = max|x| / 127 and a = round(x * (127 /
max|x|)), half to even; a group of numbers below 1e-30 becomes zeros. The integers pass over the unsigned weights
w + 128; their int32 sum of a group starts at -128 * sum(a), which takes the offset back, and so is exact. A float32
total goes over the groups in the order of the columns, total = fma(sum, s, total), and the result is
total * scale + bias + residual. NaN and infinity in a group make the row NaN or infinite.

Twice as fast as the two digits of `gemm_int8` where the arithmetic is the limit, with many rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm.script import tirx as T

from . import simd
from .gemm import LinearTile, Output, Place, Steps, walk
from .gemm_int8 import dot_step
from .layout import QUAD, ZERO_POINT
from .prologue import RowSource, each_row, kept_row
from .row_quantization import Each, largest_of, rounded, scale_and_inverse
from .simd import BYTES, LANES, Expr, keep

LARGEST = 127  # the largest |a|
# Of four rows, sums and totals fit into the registers together.
TILE = LinearTile(rows=4, stream_rows=0)


@dataclass(frozen=True)
class Groups:
    """The quantized activations."""

    columns: int
    """Columns of a row."""
    width: int
    """Columns of a group; the last one may have fewer."""
    rows: Any
    """int8[n, stride], zero beyond the columns of x up to a multiple of four."""
    offsets: Any
    """int32[n, groups]: -128 times the sum of each group."""
    scales: Any
    """float32[n, groups]: s."""


def emit_grouped(
    source: RowSource, weight: Any, output: Output, n: Expr, columns: int, tile: LinearTile, group: int
) -> None:
    """Emit the kernel: the n rows of `source` times the packed int8 weight into `output`.

    `group` is how many columns share a scale: all, or a few times 16, which stay in registers.
    """
    count = -(-columns // group)
    # One line more than the row needs: rows a multiple of 4096 bytes apart would all fall into one set of the cache.
    stride = -(-columns // BYTES) * BYTES + BYTES
    groups = Groups(
        columns,
        group,
        simd.named("integers", T.alloc_buffer((n, stride), "int8")),
        simd.named("offsets", T.alloc_buffer((n, count), "int32")),
        simd.named("scales", T.alloc_buffer((n, count), "float32")),
    )
    each_row(n, lambda row: _quantize(source, row, groups))
    group_steps = -(-group // QUAD)
    steps = Steps(-(-columns // QUAD), max(tile.part // group, 1) * group_steps, "float32")
    walk(n, output.features, tile, lambda place: _tile(groups, weight, output, place), steps)


def _tile(groups: Groups, weight: Any, output: Output, place: Place) -> None:
    def registers(dtype: str) -> list[list[Any]]:
        return [[simd.scratch((LANES,), dtype) for _ in place.columns] for _ in range(place.rows)]

    assert place.part is not None
    sums, totals = registers("int32"), registers("float32")
    group_steps = -(-groups.width // QUAD)
    steps = -(-groups.columns // QUAD)
    output.fetch(place)
    place.resume(totals, lambda _row: simd.splat(0.0))
    first_group = simd.opaque(place.part.first // group_steps, "first_group")
    with T.serial(0, (place.part.count + (group_steps - 1)) // group_steps) as i:
        group = T.bind(first_group + i)
        for r, row_sums in enumerate(sums):
            for total in row_sums:
                simd.store(total, simd.splat(groups.offsets[place.row + r, group]), 0)
        first = T.bind(group * group_steps)
        with T.serial(0, group_steps if steps % group_steps == 0 else T.min(group_steps, steps - first)) as step:
            dot_step(groups.rows, place.row, weight, place, first + simd.named("step", step), sums)
        for r in range(place.rows):
            scale = T.bind(simd.splat(groups.scales[place.row + r, group]))
            for total, value in zip(totals[r], sums[r], strict=True):
                whole = T.cast(simd.load(value, 0), "float32x16")
                simd.store(total, simd.fma(whole, scale, simd.load(total, 0)), 0)

    def finish() -> None:
        for r, row_totals in enumerate(totals):
            for (panel, v), total in zip(place.columns, row_totals, strict=True):
                output.write(simd.load(total, 0), None, place.row + r, panel, v)

    place.suspend(totals, finish)


def _quantize(source: RowSource, row: Expr, groups: Groups) -> None:
    """Emit the integers, offsets and scales of one row."""
    if groups.width == groups.columns:
        source = kept_row(source, row)
        _quantize_group(source.each, row, 0, groups)
        return
    source.begin(row)

    def in_registers(group: Expr | int, width: int) -> None:
        columns = [group * groups.width + start for start in range(0, width, LANES)]
        pieces = [(keep(source.piece(column)), column) for column in columns]

        def each(emit: Callable[[Expr, Expr | int], None]) -> None:
            for piece, column in pieces:
                emit(piece, column)

        _quantize_group(each, row, group, groups)

    whole = groups.columns // groups.width
    with T.serial(0, whole) as group:
        in_registers(group, groups.width)
    if rest := groups.columns % groups.width:
        in_registers(whole, rest)


def _quantize_group(each: Each, row: Expr, group: Expr | int, groups: Groups) -> None:
    """Emit the integers, the offset and the scale of the group whose vectors `each` goes through."""
    scale, inverse = scale_and_inverse(largest_of(each), LARGEST)
    T.buffer_store(groups.scales, scale, [row, group])
    total = simd.scratch((LANES,), "int32")
    simd.store(total, T.broadcast(T.int32(0), LANES), 0)

    def store(piece: Expr, column: Expr | int) -> None:
        whole = keep(rounded(piece, inverse))
        simd.store(groups.rows, T.cast(whole, "int8x16"), row, column)
        simd.store(total, simd.load(total, 0) + whole, 0)

    each(store)
    T.buffer_store(groups.offsets, simd.fold_sum(simd.load(total, 0), "int32") * -ZERO_POINT, [row, group])
