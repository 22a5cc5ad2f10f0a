"""SwiGLU over rows (``R.vamc.swiglu``)."""

from __future__ import annotations

from typing import Any, Literal

from tvm.script import tirx as T

from vamc_py.schedules.vacc.intrinsics import DIVISION, EXPONENTIAL, rounded_to, vector
from vamc_py.schedules.vacc.kernel import Buffer, DeviceKernel, define, factory, symbol
from vamc_py.schedules.vacc.loops import LANES, Expr, serial, share
from vamc_py.schedules.vacc.vector_math import exponential


@factory
def swiglu(
    rows: int, n: int, *, out_stride: int | None = None, out: Literal["float16", "float32"], cores: int
) -> DeviceKernel:
    """Arguments x f32 [rows, 2n], 16 gates and their 16 ups by turns; y `out` [rows, n].

    y = gate / (1 + e**-gate) * up, float16 saturating. Rows of y lie `out_stride` elements apart (None: n).

    Instructions an element: 12 for the exponential, 4 for the division, 3 for sign, sum and product, 1 for float16.
    ValueError where n is no multiple of 16.
    """
    stride = out_stride or n
    if stride < n:
        raise ValueError(f"rows of {n} elements do not lie {stride} apart")
    if n % LANES:
        raise ValueError(f"gates and ups lie by turns in panels of {LANES}, which {n} are no multiple of")

    def emit(core: Expr, x: Any, y: Any) -> None:
        first, count = share(rows, core, cores)
        instructions = EXPONENTIAL + DIVISION + 3 + (out == "float16")
        with (
            vector(count * n, instructions),
            serial(count, "row") as row,
            serial(n // LANES, "panel") as panel,
            serial(LANES, "j") as j,
        ):
            at = (first + row) * 2 * n + panel * 2 * LANES + j
            silu = x[at] / (T.float32(1) + exponential(T.float32(0) - x[at]))
            T.buffer_store(y, rounded_to(silu * x[at + LANES], out), [(first + row) * stride + panel * LANES + j])

    buffers = [
        Buffer("x", "float32", rows * 2 * n),
        Buffer("y", out, (rows - 1) * stride + n, "write"),
    ]
    return define(symbol("swiglu", rows=rows, n=n, to=out_stride, out=out, cores=cores), "vector", buffers, cores, emit)
