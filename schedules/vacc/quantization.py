"""Rows to int8 and back, and weights to the float16 that the matrix unit multiplies."""

from __future__ import annotations

from typing import Any, Literal

from tvm.script import tirx as T

from vamc_py.schedules.vacc.intrinsics import DIVISION, saturate, vector
from vamc_py.schedules.vacc.kernel import Buffer, DeviceKernel, define, factory, symbol
from vamc_py.schedules.vacc.loops import LANES, Expr, bound, lanes, named, serial, share
from vamc_py.schedules.vacc.vector_math import row_max
from vamc_py.weights.formats import Values

_FLOAT8 = 4  # instructions to take a float8 apart
_DTYPES = {"int8": "int8", "int4": "uint8", "float8_e4m3fn": "uint8"}


@factory
def quantize_rows(rows: int, k: int, *, group: int = 0, x_stride: int | None = None, cores: int) -> DeviceKernel:
    """Arguments x f32 [rows, k], rows `x_stride` elements apart (None: k), q i8 [rows, k], scale f32 [rows, groups].

    For each `group` columns (0: all; the last group may be shorter) scale = max|x| / 127, q = x / scale, rounded half
    to even and held within ±127. A group of zeros has the scale 0 and zeros. x is finite.

    Instructions an element: 2 for the largest, 4 for the division, 3 to round, hold and convert.
    """
    stride, size = x_stride or k, min(group or k, k)
    groups = -(-k // size)
    if stride < k:
        raise ValueError(f"rows of {k} elements do not lie {stride} apart")

    def emit(core: Expr, x: Any, q: Any, scale: Any) -> None:
        start, count = share(rows, core, cores)
        with vector(count * k, DIVISION + 5), serial(count, "i") as i, serial(groups, "g") as g:
            row = bound("row", start + i)
            columns = bound("columns", T.min(size, k - g * size))
            largest = row_max(columns, lambda j: T.abs(x[row * stride + g * size + j]), 0.0)
            T.buffer_store(scale, largest / T.float32(127), [row * groups + g])
            by = named("by", T.bind(scale[row * groups + g]))
            # Where the scale is 0 so are the numbers, or too small to divide by it.
            divisor = named("divisor", T.bind(T.Select(by == T.float32(0), T.float32(1), by)))
            with serial(columns, "j") as j:
                value = T.nearbyint(x[row * stride + g * size + j] / divisor)
                held = T.max(T.min(value, T.float32(127)), T.float32(-127))
                T.buffer_store(q, T.cast(held, "int8"), [row * k + g * size + j])

    buffers = [
        Buffer("x", "float32", (rows - 1) * stride + k),
        Buffer("q", "int8", rows * k, "write"),
        Buffer("scale", "float32", rows * groups, "write"),
    ]
    name = symbol("quantize_rows", rows=rows, k=k, group=group or None, stride=x_stride, cores=cores)
    return define(name, "vector", buffers, cores, emit)


@factory
def dequantize(elements: int, *, values: Literal["int8", "float8_e4m3fn"] = "int8", cores: int) -> DeviceKernel:
    """Arguments w [elements], int8 or the bits of float8_e4m3fn, out f16 [elements]: the same numbers, exactly.

    The scales of rows are the product's (`gemm`). Codes of NaN become ±480, as in ``R.vamc.linear``. Instructions an
    element: 1, and 4 to take a float8 apart.
    """
    instructions = 1 + (_FLOAT8 if values == "float8_e4m3fn" else 0)

    def emit(core: Expr, w: Any, out: Any) -> None:
        start, count = share(elements, core, cores, LANES)
        with vector(count, instructions), serial(count, "i") as i:
            T.buffer_store(out, T.cast(_decoded(w[start + i], values, 0), "float16"), [start + i])

    buffers = [Buffer("w", _DTYPES[values], elements), Buffer("out", "float16", elements, "write")]
    return define(symbol(f"dequantize_{values}", elements=elements, cores=cores), "vector", buffers, cores, emit)


@factory
def dequantize_rows(rows: int, columns: int, *, cores: int) -> DeviceKernel:
    """Arguments w i8 [rows, columns], scale f32 [rows], out f16 [rows, columns]: w * scale in float32, rounded once to
    float16, saturating at ±65504. Instructions an element: 1 each for the conversion, the product and float16.
    """

    def emit(core: Expr, w: Any, scale: Any, out: Any) -> None:
        start, count = share(rows, core, cores)
        with vector(count * columns, 3), serial(count, "i") as i:
            row = bound("row", start + i)
            by = named("by", T.bind(scale[row]))
            with serial(columns, "j") as j:
                value = T.cast(w[row * columns + j], "float32") * by
                T.buffer_store(out, saturate(value), [row * columns + j])

    buffers = [
        Buffer("w", "int8", rows * columns),
        Buffer("scale", "float32", rows),
        Buffer("out", "float16", rows * columns, "write"),
    ]
    return define(symbol("dequantize_rows", rows=rows, columns=columns, cores=cores), "vector", buffers, cores, emit)


@factory
def dequantize_groups(
    n: int,
    k: int,
    *,
    values: Values,
    group: int = 0,
    zeros: bool = False,
    scale: Literal["float32", "float16"] = "float32",
    cores: int,
) -> DeviceKernel:
    """Arguments w, scale `scale` [n / 16, groups, 16], [zero i8, likewise], out f16 [n / 16, k, 16], all in panels (see
    ``layout``): w is int8 [n / 16, k, 16], float8_e4m3fn's bits of that shape, or int4 [n / 16, ceil(k / 2), 16] bytes.

    out = (w - zero) * scale, each step in float32, rounded once to float16, saturating at ±65504. A scale is for
    `group` columns of k (0: all of them; the last group may be shorter). ValueError where n is no multiple of 16 or
    there are zero points for float8.

    Instructions an element: 1 each for the conversion (4 more for float8), unpacking int4, the zero point, the product
    and float16.
    """
    if n % LANES:
        raise ValueError(f"weights lie in panels of {LANES} rows; {n} is no multiple of that")
    if zeros and values == "float8_e4m3fn":
        raise ValueError("float8 weights have no zero points")
    size = min(group or k, k)
    groups, packed = -(-k // size), 2 if values == "int4" else 1
    rows_of_panel = -(-k // packed)
    instructions = 3 + (values == "int4") + zeros + (_FLOAT8 if values == "float8_e4m3fn" else 0)

    def emit(core: Expr, w: Any, scales: Any, *rest: Any) -> None:
        zero, out = rest[0] if zeros else None, rest[-1]
        start, count = share(n // LANES, core, cores)
        with vector(count * (k * LANES), instructions), serial(count, "i") as i, serial(groups, "g") as g:
            panel = bound("panel", start + i)
            columns = bound("columns", T.min(size, k - g * size))
            with serial(columns, "j") as j, lanes() as lane:
                column, of_group = g * size + j, (panel * groups + g) * LANES + lane
                stored = w[(panel * rows_of_panel + column // packed) * LANES + lane]
                value = _decoded(stored, values, column % packed)
                value = value if zero is None else value - T.cast(zero[of_group], "float32")
                value = saturate(value * T.cast(scales[of_group], "float32"))
                T.buffer_store(out, value, [(panel * k + column) * LANES + lane])

    buffers = [
        Buffer("w", _DTYPES[values], n * rows_of_panel),
        Buffer("scale", scale, n * groups),
        *([Buffer("zero", "int8", n * groups)] if zeros else []),
        Buffer("out", "float16", n * k, "write"),
    ]
    name = symbol(f"dequantize_groups_{values}", n=n, k=k, group=group or None, zeros=zeros, scale=scale, cores=cores)
    return define(name, "vector", buffers, cores, emit)


def _decoded(stored: Expr, values: Values, nibble: Expr) -> Expr:
    """A stored weight as float32, exactly; of int4 the lower half of the byte, or with `nibble` 1 the upper one."""
    if values == "int8":
        return T.cast(stored, "float32")
    byte = T.cast(stored, "int32")
    if values == "int4":
        return T.cast(T.shift_right(T.shift_left(byte, 28 - 4 * nibble), T.int32(28)), "float32")
    # By its bits, since TVM's own cast is wrong for denormal ones.
    mantissa, exponent = byte & T.int32(7), T.shift_right(byte, T.int32(3)) & T.int32(15)
    denormal = T.cast(mantissa, "float32") * T.float32(2.0**-9)
    bits = T.shift_left(exponent + T.int32(120), T.int32(23)) | T.shift_left(mantissa, T.int32(20))
    magnitude = T.Select(exponent == T.int32(0), denormal, T.reinterpret("float32", bits))
    return T.Select(byte >= T.int32(128), T.float32(-1) * magnitude, magnitude)
