"""The causal softmax of attention scores."""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from vamc_py.schedules.vacc.intrinsics import EXPONENTIAL, saturate, vector
from vamc_py.schedules.vacc.kernel import Buffer, DeviceKernel, define, factory, symbol
from vamc_py.schedules.vacc.loops import Expr, bound, named, serial, share
from vamc_py.schedules.vacc.vector_math import exponential, row_max, row_sum

_LEAST = -3.4028234663852886e38  # the lowest float32


@factory
def softmax(rows: int, tokens: int, columns: int, *, stride: int | None = None, cores: int) -> DeviceKernel:
    """Arguments scores f32 [rows, columns], rows `stride` elements apart (None: columns), p f16 [rows, columns], and
    the int32 scalar `first`, which is not negative.

    Row r is of the token at position first + r % tokens: p = e**(score - largest) * (1 / sum) in float32, rounded once
    to float16, over columns up to that position, and 0 in the others, whose scores are not looked at. The scores are
    overwritten. Sums are in the order of `vector_math.fold_row`.

    Instructions an element, of all columns: 1 for the largest, 13 for the difference and the exponential, 1 for the
    sum, 2 for the product and float16.
    """
    apart = stride or columns
    if apart < columns:
        raise ValueError(f"rows of {columns} scores do not lie {apart} apart")

    def emit(core: Expr, scores: Any, p: Any, first: Expr) -> None:
        start, count = share(rows, core, cores)
        with vector(count * columns, EXPONENTIAL + 5), serial(count, "i") as i:
            row = bound("row", start + i)
            seen = named("seen", T.bind(T.min(first + row % tokens + 1, columns)))
            largest = row_max(seen, lambda j: scores[row * apart + j], _LEAST)
            with serial(seen, "j") as j:
                value = exponential(scores[row * apart + j] - largest)
                T.buffer_store(scores, value, [row * apart + j])
            total = row_sum(seen, lambda j: scores[row * apart + j])
            factor = named("factor", T.bind(T.float32(1) / total))
            with serial(seen, "j") as j:
                T.buffer_store(p, saturate(scores[row * apart + j] * factor), [row * columns + j])
            with serial(columns - seen, "j") as j:
                T.buffer_store(p, T.float16(0), [row * columns + seen + j])

    buffers = [
        Buffer("scores", "float32", (rows - 1) * apart + columns, "update"),
        Buffer("p", "float16", rows * columns, "write"),
    ]
    name = symbol("softmax", rows=rows, tokens=tokens, columns=columns, stride=stride, cores=cores)
    return define(name, "vector", buffers, cores, emit, scalars=("first",))
