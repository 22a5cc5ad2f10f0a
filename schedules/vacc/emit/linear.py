"""Linear layers: tiles of weights stream through SSRAM while the blocks of the left factor stay.

A tile of weights is loaded (wddma), dequantized where its numbers are not what the matrix unit multiplies (vector),
multiplied (matrix) and finished: written back, joined with its other half by SwiGLU, or summed over the dies. Loads of
the next tiles run meanwhile; the dequantization of the next tile stands before the finish of this one in the vector
unit's queue, since that waits for the product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

from vamc_py.runstream.program import DmaEngine
from vamc_py.schedules.vacc import kernels
from vamc_py.schedules.vacc.emit.decisions import TILE, fitting
from vamc_py.schedules.vacc.emit.emitter import Emitter
from vamc_py.schedules.vacc.emit.stage import At
from vamc_py.schedules.vacc.emit.values import Parameter, Value

PIECES = 4  # in which a left factor is made where it could be made at once


@dataclass(frozen=True)
class Layer:
    """A call of R.vamc.linear, its weights by their places."""

    weight: Parameter
    """Panels [ceil(N / 16)][K][16]; of four bits [ceil(N / 16)][K / 2][16]."""
    columns: int
    """N, padded to the matrix tile."""
    depth: int
    """K."""
    bits: int = 8
    group: int = 0
    scale: Parameter | None = None
    zero: Parameter | None = None
    bias: Parameter | None = None
    norm: Parameter | None = None
    epsilon: float = 0.0
    activation_group: int | None = None
    """Columns of the left factor that share a scale as int8 (0: a row); None: it is float16."""

    @property
    def integers(self) -> bool:
        """Whether both factors are int8."""
        return self.activation_group is not None

    @property
    def input_dtype(self) -> str:
        """Of the left factor."""
        return "int8" if self.integers else "float16"

    @property
    def stored(self) -> Literal["int8", "float8_e4m3fn"]:
        """What a byte of a weight of eight bits is."""
        return "int8" if self.weight.dtype == "int8" else "float8_e4m3fn"

    @property
    def itemsize(self) -> int:
        """Bytes of an element of either factor as it is multiplied."""
        return 1 if self.integers else 2

    @property
    def row_scale(self) -> Parameter | None:
        """The scale of each output row, which the product is multiplied by; others are the weight's."""
        of_rows = self.group == 0 and self.bits == 8 and self.zero is None
        return self.scale if of_rows and self.scale is not None and self.scale.dtype == "float32" else None


@dataclass(frozen=True)
class Block:
    """Rows of the left factor as they are multiplied."""

    row: int
    rows: int
    values: At
    scales: At | None = None
    pieces: tuple[int, ...] = ()
    """Rows of the pieces in which they were made: the first tile is multiplied piece by piece, as they come."""


@dataclass(frozen=True)
class Tile:
    """Columns of the result, padded to the matrix tile."""

    column: int
    columns: int


def project(e: Emitter, layer: Layer, x: Value, *, residual: Value | None = None, in_place: bool = False) -> Value:
    """x @ weight.T with prologue, scale, bias and residual -> float32 [rows, N]; `in_place`: where the residual is."""
    out = residual if in_place and residual is not None else e.value("product", x.rows, layer.columns, "float32")
    direct = out.resident and (residual is None or residual.resident)
    own: bool | Literal["in place"] = False
    if residual is not None:
        own = "in place" if in_place or not direct else True
    constants = _row_constants(e, layer)
    for block in _blocks(e, layer, x):

        def compute(tile: Tile, weights: At, block: Block = block) -> At:
            window = (block.row, block.rows, tile.column, tile.columns)
            target = out.window(*window) if direct else e.output_slot("product", block.rows * tile.columns, "float32")
            if residual is not None and not direct:
                e.copied(residual.window(*window), target)
            stride = layer.columns if direct else tile.columns
            term = residual.window(*window) if residual is not None and own is True else None
            _multiply(e, layer, block, tile, weights, constants, target, stride, residual=own, term=term)
            return target

        def finish(tile: Tile, target: At, block: Block = block) -> None:
            if not direct:
                e.copied(target, out.window(block.row, block.rows, tile.column, tile.columns))

        _pipelined(_tiles(e, layer, block.rows), partial(_weights, e, layer), compute, finish)
    return out


def project_gated(e: Emitter, layer: Layer, x: Value, next_layer: Layer) -> Value:
    """silu(gate) * up of the two halves of the product, as the next layer takes it: [rows, N / 2].

    The rows of the weight are packed so that 16 gates and their 16 ups lie by turns.
    """
    half = layer.columns // 2
    out = e.value("gated", x.rows, half, next_layer.input_dtype)
    group = next_layer.activation_group
    if group is not None:
        out = e.with_scales(out, group)
    constants = _row_constants(e, layer)
    for block in _blocks(e, layer, x):

        def compute(tile: Tile, weights: At, block: Block = block) -> At:
            target = e.output_slot("gate_up", block.rows * tile.columns, "float32")
            _multiply(e, layer, block, tile, weights, constants, target, tile.columns)
            return target

        def finish(tile: Tile, product: At, block: Block = block) -> None:
            _gate(e, block, Tile(tile.column // 2, tile.columns // 2), product, out, group)

        width = e.decisions.columns_of(layer.columns, layer.depth, layer.itemsize, block.rows)
        multiple = 2 * (group or TILE)
        width = min(max(width // multiple, 1) * multiple, layer.columns)
        _pipelined(_cut(layer.columns, width), partial(_weights, e, layer), compute, finish)
    return out


def project_summed(e: Emitter, layer: Layer, x: Value, residual: Value | None, *, in_place: bool = False) -> Value:
    """The product of this die summed over all dies [+ residual] -> float32 [rows, N].

    The dies exchange float16. `in_place`: the result lies where the residual is.
    """
    out = residual if in_place and residual is not None else e.value("summed", x.rows, layer.columns, "float32")
    constants = _row_constants(e, layer)
    # An exchange costs its latency. That of many rows overlaps with the next tiles; that of one waits for all tiles.
    whole = e.block_buffer("partial", layer.columns, "float16") if x.rows == 1 else None
    for block in _blocks(e, layer, x):

        def compute(tile: Tile, weights: At, block: Block = block) -> At:
            if whole is None:
                target = e.output_slot("partial", block.rows * tile.columns, "float16")
            else:
                target = At(whole.place, tile.column * 2, tile.columns * 2)
            _multiply(e, layer, block, tile, weights, constants, target, tile.columns, out="float16")
            return target

        def finish(tile: Tile, product: At, block: Block = block) -> None:
            if whole is None:
                _sum_up(e, block, tile, product, residual, out)

        _pipelined(_tiles(e, layer, block.rows), partial(_weights, e, layer), compute, finish)
        if whole is not None:
            _sum_up(e, block, Tile(0, layer.columns), whole, residual, out)
    return out


def _sum_up(e: Emitter, block: Block, tile: Tile, part: At, residual: Value | None, out: Value) -> None:
    """This die's part of a tile becomes the sum over all dies, and with the residual the result."""
    total = e.output_slot("total", block.rows * tile.columns, "float16")
    with e.stage.part("all_reduce"):
        e.stage.collective("all_reduce", "float16", part, total)
    e.add_total(total, block.row, block.rows, tile.column, tile.columns, residual, out)


def _gate(e: Emitter, block: Block, tile: Tile, product: At, out: Value, group: int | None) -> None:
    """SwiGLU of a product, and the rounding to int8 where the next layer asks for it, of a tile of results."""
    rows, columns = block.rows, tile.columns
    if group is None:
        target = (
            out.window(block.row, rows, tile.column, columns)
            if out.resident
            else e.output_slot("gated", rows * columns, "float16")
        )
        stride = out.columns if out.resident else columns
        e.stage.launch(kernels.swiglu(rows, columns, out_stride=stride, out="float16", cores=e.cores), product, target)
        if not out.resident:
            e.stage.transfer("odma", target, out.window(block.row, rows, tile.column, columns))
        return
    wide = e.output_slot("gated", rows * columns, "float32")
    e.stage.launch(kernels.swiglu(rows, columns, out="float32", cores=e.cores), product, wide)
    assert out.scales is not None
    groups = -(-columns // group)
    narrow = e.output_slot("gated8", rows * columns, "int8")
    scales = e.output_slot("gated_scales", rows * groups, "float32")
    e.stage.launch(kernels.quantize_rows(rows, columns, group=group, cores=e.cores), wide, narrow, scales)
    engine: DmaEngine = "cdma" if out.resident else "odma"
    e.stage.transfer(engine, narrow, out.window(block.row, rows, tile.column, columns))
    e.stage.transfer(engine, scales, out.scales.window(block.row, rows, tile.column // group, groups))


def _blocks(e: Emitter, layer: Layer, x: Value) -> Iterator[Block]:
    """The left factor in blocks of rows, ready to be multiplied."""
    most = e.decisions.rows_of(x.rows, layer.depth, layer.itemsize)
    for row in range(0, x.rows, most):
        yield _block(e, layer, x, row, min(most, x.rows - row))


def _block(e: Emitter, layer: Layer, x: Value, row: int, rows: int) -> Block:
    if x.dtype == layer.input_dtype:
        values = x.block(row, rows)
        scales = None if x.scales is None else x.scales.block(row, rows)
        if not x.resident:
            values = e.loaded(values, e.block_buffer("inputs", rows * layer.depth, x.dtype))
            if x.scales is not None and scales is not None:
                scales = e.loaded(scales, e.block_buffer("input_scales", rows * x.scales.columns, "float32"))
        return Block(row, rows, values, scales)
    assert x.dtype == "float32", f"{x.dtype} before a product of {layer.input_dtype}"
    result = Value(
        rows, layer.depth, layer.input_dtype, e.stage.buffer("inputs", rows * layer.depth, layer.input_dtype)
    )
    group = layer.activation_group
    if group is not None:
        groups = -(-layer.depth // (group or layer.depth))
        scales_of = e.stage.buffer("input_scales", rows * groups, "float32")
        result = Value(*_shape(result), result.place, Value(rows, groups, "float32", scales_of))
    norm = None if layer.norm is None else e.constant("norm", layer.norm)
    step = fitting(rows, rows // PIECES if x.resident else e.decisions.outputs // (layer.depth * 4))
    for first in range(0, rows, step):
        _convert(e, layer, x, row + first, result, first, min(step, rows - first), norm)
    scales = None if result.scales is None else result.scales.block(0, rows)
    pieces = tuple(min(step, rows - first) for first in range(0, rows, step))
    return Block(row, rows, result.block(0, rows), scales, pieces)


def _shape(value: Value) -> tuple[int, int, str]:
    return value.rows, value.columns, value.dtype


def _convert(
    e: Emitter, layer: Layer, x: Value, row: int, result: Value, first: int, rows: int, norm: At | None
) -> None:
    """Some rows of x, normalized where the layer asks for it, as the product takes them."""
    depth = layer.depth
    source = x.block(row, rows)
    if not x.resident:
        source = e.loaded(source, e.output_slot("rows", rows * depth, "float32"))
    target = result.block(first, rows)
    if result.scales is None:
        if norm is None:
            e.stage.launch(kernels.cast_f16(rows * depth, cores=e.cores), source, target)
        else:
            kernel = kernels.rms_norm(rows, depth, layer.epsilon, out="float16", cores=e.cores)
            e.stage.launch(kernel, source, norm, target)
        return
    if norm is not None:
        normalized = e.output_slot("normalized", rows * depth, "float32")
        kernel = kernels.rms_norm(rows, depth, layer.epsilon, out="float32", cores=e.cores)
        e.stage.launch(kernel, source, norm, normalized)
        source = normalized
    group = layer.activation_group
    assert group is not None
    e.stage.launch(
        kernels.quantize_rows(rows, depth, group=group, cores=e.cores), source, target, result.scales.block(first, rows)
    )


def _row_constants(e: Emitter, layer: Layer) -> dict[str, At]:
    """Scales and biases of the output rows: small, so the whole of them is loaded at once."""
    named = {"scale": layer.row_scale, "bias": layer.bias}
    return {name: e.constant(name, parameter) for name, parameter in named.items() if parameter is not None}


def _multiply(
    e: Emitter,
    layer: Layer,
    block: Block,
    tile: Tile,
    weights: At,
    constants: dict[str, At],
    target: At,
    stride: int,
    *,
    residual: bool | Literal["in place"] = False,
    term: At | None = None,
    out: Literal["float32", "float16"] = "float32",
) -> None:
    """The product of a tile, into `target`, whose rows lie `stride` elements apart."""
    of_rows = [At(at.place, at.offset + tile.column * 4, tile.columns * 4) for at in constants.values()]
    first = 0
    for rows in block.pieces if tile.column == 0 and block.pieces else (block.rows,):
        kernel = kernels.gemm(
            rows,
            tile.columns,
            layer.depth,
            dtype="i8" if layer.integers else "f16",
            a_stride=layer.depth,
            b="panels",
            c_stride=stride,
            out=out,
            scale="scale" in constants,
            bias="bias" in constants,
            residual=residual,
            group=(layer.activation_group or layer.depth) if layer.integers else 0,
            cores=e.cores,
        )
        left = [_rows(at, block.rows, first, rows) for at in (block.values, block.scales) if at is not None]
        last = [_rows(at, block.rows, first, rows) for at in (term, target) if at is not None]
        e.stage.launch(kernel, left[0], weights, *left[1:], *of_rows, *last)
        first += rows


def _rows(at: At, of: int, first: int, rows: int) -> At:
    """Some rows of an access to `of` rows."""
    if at.rows == 1:  # without gaps
        width = at.row_bytes // of
        return At(at.place, at.offset + first * width, rows * width)
    return At(at.place, at.offset + first * at.stride, at.size, rows, at.stride if rows > 1 else 0)


def _weights(e: Emitter, layer: Layer, tile: Tile) -> At:
    """A tile of weights as the matrix unit reads it."""
    size = tile.columns * layer.depth * layer.itemsize
    stored = layer.weight.place.bytes // (layer.columns // TILE)  # bytes of a panel
    source = At(layer.weight.place, tile.column // TILE * stored, tile.columns // TILE * stored)
    ready = layer.integers or layer.weight.dtype == "float16"
    # The ring of what the matrix unit reads has more slots where nothing but loads fills it.
    raw = e.weight_slot("weights" if ready else "stored", source.row_bytes)
    e.stage.transfer("wddma", source, raw)
    if ready:
        return raw
    wide = e.weight_slot("weights", size, e.decisions.wide)
    if layer.row_scale is not None:
        kernel = kernels.dequantize(tile.columns * layer.depth, values=layer.stored, cores=e.cores)
        e.stage.launch(kernel, raw, wide)
        return wide
    assert layer.scale is not None
    parts = [raw]
    for name, parameter in (("scales", layer.scale), ("zeros", layer.zero)):
        if parameter is None:
            continue
        per_panel = parameter.place.bytes // (layer.columns // TILE)
        part = At(parameter.place, tile.column // TILE * per_panel, tile.columns // TILE * per_panel)
        at = e.weight_slot(name, part.row_bytes)
        e.stage.transfer("wddma", part, at)
        parts.append(at)
    kernel = kernels.dequantize_groups(
        tile.columns,
        layer.depth,
        values="int4" if layer.bits == 4 else layer.stored,
        group=layer.group,
        zeros=layer.zero is not None,
        scale=cast(Literal["float32", "float16"], layer.scale.dtype),
        cores=e.cores,
    )
    e.stage.launch(kernel, *parts, wide)
    return wide


def _tiles(e: Emitter, layer: Layer, rows: int) -> list[Tile]:
    return _cut(layer.columns, e.decisions.columns_of(layer.columns, layer.depth, layer.itemsize, rows))


def _cut(columns: int, width: int) -> list[Tile]:
    return [Tile(column, min(width, columns - column)) for column in range(0, columns, width)]


def _pipelined(
    tiles: Sequence[Tile],
    load: Callable[[Tile], At],
    compute: Callable[[Tile, At], Any],
    finish: Callable[[Tile, Any], None],
) -> None:
    """Each tile loaded, computed and finished, the next one's load before this one's finish."""
    ready = load(tiles[0])
    for index, tile in enumerate(tiles):
        result = compute(tile, ready)
        if index + 1 < len(tiles):
            ready = load(tiles[index + 1])
        finish(tile, result)
