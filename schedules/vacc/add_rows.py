"""The sum of what the dies exchanged and of a residual, for some columns of both."""

from __future__ import annotations

from tvm.script import tirx as T

from vamc_py.schedules.vacc.intrinsics import vector
from vamc_py.schedules.vacc.kernel import Buffer, DeviceKernel, define, factory, symbol
from vamc_py.schedules.vacc.loops import Expr, serial, share


@factory
def add_rows(
    rows: int, n: int, *, residual: bool, y_stride: int | None = None, out_stride: int | None = None, cores: int
) -> DeviceKernel:
    """Arguments x f16 [rows, n], [y f32], out f32: out = x [+ y]. Rows are shared out over the cores.

    Rows of y (with `residual`) and out lie `y_stride` and `out_stride` elements apart (None: n). Two instructions an
    element with a residual, one without.
    """
    y_stride, out_stride = y_stride or n, out_stride or n

    def emit(core: Expr, x: object, *rest: object) -> None:
        start, count = share(rows, core, cores)
        with vector(count * n, 2 if residual else 1), serial(count, "row") as row, serial(n, "i") as i:
            value = T.cast(x[(start + row) * n + i], "float32")  # type: ignore[index]
            if residual:
                value = value + rest[0][(start + row) * y_stride + i]  # type: ignore[index]
            T.buffer_store(rest[-1], value, [(start + row) * out_stride + i])

    buffers = [
        Buffer("x", "float16", rows * n),
        *([Buffer("y", "float32", (rows - 1) * y_stride + n)] if residual else []),
        Buffer("out", "float32", (rows - 1) * out_stride + n, "write"),
    ]
    name = symbol(
        "add_rows", rows=rows, n=n, residual=residual, y=y_stride if residual else None, out=out_stride, cores=cores
    )
    return define(name, "vector", buffers, cores, emit)
