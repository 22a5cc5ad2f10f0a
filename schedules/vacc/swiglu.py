"""SwiGLU over rows (``R.vamc.swiglu``)."""

from __future__ import annotations

from typing import Any, Literal

from tvm.script import tirx as T

from vamc_py.schedules.vacc.intrinsics import DIVISION, EXPONENTIAL, rounded_to, vector
from vamc_py.schedules.vacc.kernel import Buffer, DeviceKernel, define, factory, symbol
from vamc_py.schedules.vacc.loops import Expr, serial, share
from vamc_py.schedules.vacc.vector_math import exponential


@factory
def swiglu(
    rows: int,
    n: int,
    *,
    gate_stride: int | None = None,
    up_stride: int | None = None,
    out_stride: int | None = None,
    out: Literal["float16", "float32"],
    cores: int,
) -> DeviceKernel:
    """Arguments gate and up f32 [rows, n], y `out` [rows, n], rows so many elements apart (None: n).

    y = gate / (1 + e**-gate) * up, float16 saturating. Instructions an element: 12 for the exponential, 4 for the
    division, 3 for sign, sum and product, 1 for float16.
    """
    strides = [gate_stride or n, up_stride or n, out_stride or n]
    if min(strides) < n:
        raise ValueError(f"rows of {n} elements do not lie {min(strides)} apart")

    def emit(core: Expr, gate: Any, up: Any, y: Any) -> None:
        first, count = share(rows, core, cores)
        instructions = EXPONENTIAL + DIVISION + 3 + (out == "float16")
        with vector(count * n, instructions), serial(count, "row") as row, serial(n, "j") as j:
            g, u, to = ((first + row) * stride + j for stride in strides)
            silu = gate[g] / (T.float32(1) + exponential(T.float32(0) - gate[g]))
            T.buffer_store(y, rounded_to(silu * up[u], out), [to])

    names = [("gate", "float32", "read"), ("up", "float32", "read"), ("y", out, "write")]
    buffers = [
        Buffer(name, dtype, (rows - 1) * stride + n, mode)  # type: ignore[arg-type]  # a literal of the list above
        for (name, dtype, mode), stride in zip(names, strides, strict=True)
    ]
    name = symbol("swiglu", rows=rows, n=n, gate=gate_stride, up=up_stride, to=out_stride, out=out, cores=cores)
    return define(name, "vector", buffers, cores, emit)
