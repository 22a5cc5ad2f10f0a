"""The sum of what the dies exchanged and of a residual, for some columns of both."""

from __future__ import annotations

from typing import Literal

from tvm.script import tirx as T

from vamc_py.schedules.vacc.intrinsics import vector
from vamc_py.schedules.vacc.kernel import Buffer, DeviceKernel, define, factory, symbol
from vamc_py.schedules.vacc.loops import Expr, serial, share


@factory
def add_rows(
    rows: int,
    n: int,
    *,
    residual: bool | Literal["in place"],
    y_stride: int | None = None,
    out_stride: int | None = None,
    cores: int,
) -> DeviceKernel:
    """Arguments x f16 [rows, n], [y f32], out f32: out = x [+ y]. Rows are shared out over the cores.

    Rows of y (with `residual`) and out lie `y_stride` and `out_stride` elements apart (None: n); "in place", y is what
    out holds before. Two instructions an element with a residual, one without.
    """
    y_stride, out_stride = y_stride or n, out_stride or n

    def emit(core: Expr, x: object, *rest: object) -> None:
        start, count = share(rows, core, cores)
        with vector(count * n, 2 if residual else 1), serial(count, "row") as row, serial(n, "i") as i:
            value = T.cast(x[(start + row) * n + i], "float32")  # type: ignore[index]
            if residual == "in place":
                value = value + rest[-1][(start + row) * out_stride + i]  # type: ignore[index]
            elif residual:
                value = value + rest[0][(start + row) * y_stride + i]  # type: ignore[index]
            T.buffer_store(rest[-1], value, [(start + row) * out_stride + i])

    buffers = [
        Buffer("x", "float16", rows * n),
        *([Buffer("y", "float32", (rows - 1) * y_stride + n)] if residual is True else []),
        Buffer("out", "float32", (rows - 1) * out_stride + n, "update" if residual == "in place" else "write"),
    ]
    name = symbol(
        "add_rows",
        rows=rows,
        n=n,
        residual="own" if residual == "in place" else residual,
        y=y_stride if residual is True else None,
        out=out_stride,
        cores=cores,
    )
    return define(name, "vector", buffers, cores, emit)
