"""RMSNorm over rows (``R.vamc.rms_norm``)."""

from __future__ import annotations

from typing import Any, Literal

from tvm.script import tirx as T

from vamc_py.schedules.vacc.intrinsics import rounded_to, vector
from vamc_py.schedules.vacc.kernel import Buffer, DeviceKernel, define, factory, symbol
from vamc_py.schedules.vacc.loops import Expr, bound, serial, share
from vamc_py.schedules.vacc.vector_math import rms_factor


@factory
def rms_norm(
    rows: int,
    features: int,
    eps: float,
    *,
    out: Literal["float16", "float32"],
    x_stride: int | None = None,
    cores: int,
) -> DeviceKernel:
    """Arguments x f32 [rows, features], its rows `x_stride` elements apart (None: features), w f32 [features],
    y `out` [rows, features]: y = x / sqrt(mean(x * x) + eps) * w, float16 saturating.

    Instructions an element: 2 for the sum of squares, 2 for the products, 1 for float16.
    """
    stride = x_stride or features
    if stride < features:
        raise ValueError(f"rows of {features} features do not lie {stride} apart")

    def emit(core: Expr, x: Any, w: Any, y: Any) -> None:
        first, count = share(rows, core, cores)
        with vector(count * features, 4 + (out == "float16")), serial(count, "i") as i:
            row = bound("row", first + i)
            factor = rms_factor(features, lambda j: x[row * stride + j], eps)
            with serial(features, "j") as j:
                T.buffer_store(y, rounded_to(x[row * stride + j] * factor * w[j], out), [row * features + j])

    buffers = [
        Buffer("x", "float32", (rows - 1) * stride + features),
        Buffer("w", "float32", features),
        Buffer("y", out, rows * features, "write"),
    ]
    name = symbol("rms_norm", rows=rows, features=features, eps=eps, stride=x_stride, out=out, cores=cores)
    return define(name, "vector", buffers, cores, emit)
