"""Elementwise kernels: sums, conversions, and rows of an embedding. Elements are shared out over the cores."""

from __future__ import annotations

from typing import Any, Literal

from tvm.script import tirx as T

from vamc_py.schedules.vacc.intrinsics import saturate, vector
from vamc_py.schedules.vacc.kernel import Buffer, DeviceKernel, define, factory, symbol
from vamc_py.schedules.vacc.loops import LANES, Expr, serial, share


def _elementwise(
    name: str, elements: int, cores: int, buffers: list[Buffer], instructions: int, compute: Any
) -> DeviceKernel:
    """The kernel whose last buffer is ``compute(*elements of the others at the same place)``."""

    def emit(core: Expr, *arguments: Any) -> None:
        *inputs, out = arguments
        start, count = share(elements, core, cores, LANES)
        with vector(count, instructions), serial(count, "i") as i:
            T.buffer_store(out, compute(*(x[start + i] for x in inputs)), [start + i])

    return define(name, "vector", buffers, cores, emit)


@factory
def add(elements: int, *, cores: int) -> DeviceKernel:
    """Arguments x, y, out f32[elements]: out = x + y. `out` may be x or y. One instruction an element."""
    buffers = [
        Buffer("x", "float32", elements),
        Buffer("y", "float32", elements),
        Buffer("out", "float32", elements, "write"),
    ]
    name = symbol("add", elements=elements, cores=cores)
    return _elementwise(name, elements, cores, buffers, 1, lambda x, y: x + y)


@factory
def add_f16(elements: int, *, cores: int) -> DeviceKernel:
    """Arguments x f16, y f32, out f32 [elements]: out = x + y. `out` may be y. Two instructions an element."""
    buffers = [
        Buffer("x", "float16", elements),
        Buffer("y", "float32", elements),
        Buffer("out", "float32", elements, "write"),
    ]
    name = symbol("add_f16", elements=elements, cores=cores)
    return _elementwise(name, elements, cores, buffers, 2, lambda x, y: T.cast(x, "float32") + y)


@factory
def cast_f16(elements: int, *, cores: int) -> DeviceKernel:
    """Arguments x f32, out f16 [elements]: rounded to nearest even, saturating. One instruction an element."""
    buffers = [Buffer("x", "float32", elements), Buffer("out", "float16", elements, "write")]
    return _elementwise(symbol("cast_f16", elements=elements, cores=cores), elements, cores, buffers, 1, saturate)


@factory
def embed_rows(
    rows: int, features: int, dtype: Literal["int8", "float16", "float32"], *, scale: bool = False, cores: int
) -> DeviceKernel:
    """Arguments x `dtype` [rows, features], [scale f32 [rows]], out f32 [rows, features]: out = x [* scale of the row].

    One instruction an element for the conversion, one for the product.
    """

    def emit(core: Expr, x: Any, *rest: Any) -> None:
        out = rest[-1]
        start, count = share(rows, core, cores)
        instructions = max(1, (dtype != "float32") + scale)
        with vector(count * features, instructions), serial(count, "row") as row, serial(features, "i") as i:
            value = T.cast(x[(start + row) * features + i], "float32")
            value = value * rest[0][start + row] if scale else value
            T.buffer_store(out, value, [(start + row) * features + i])

    buffers = [
        Buffer("x", dtype, rows * features),
        *([Buffer("scale", "float32", rows)] if scale else []),
        Buffer("out", "float32", rows * features, "write"),
    ]
    name = symbol(f"embed_rows_{dtype}", rows=rows, features=features, scale=scale, cores=cores)
    return define(name, "vector", buffers, cores, emit)
