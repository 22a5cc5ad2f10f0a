"""The softmax of one row of a block of scores: running maximum, weights, and the factor for what came before."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from . import simd
from .attention_partial import LOWEST, Partial
from .attention_tile import ceildiv, minimum
from .math import exp2, lane_max
from .simd import LANES, Expr, keep

UNSEEN = 2 * LOWEST
"""The score of a position that a row may not see: its weight is 0 whatever the maximum."""
SEGMENT = 64
"""Positions that are written out as one piece of code."""


def softmax_row(
    scores: Any,
    row: Expr,
    block: int,
    visible: Expr,
    extent: Expr,
    result: Partial,
    rescale: Any,
    power: Callable[[Expr], Expr],
    store_weights: Callable[[Expr, Expr], None],
) -> None:
    """Emit the weights 2**(score - maximum so far) of a row, its maximum, its sum of weights, and rescale[row, 0:16].

    `scores` f32[rows, block], changed. `visible`: how many positions of the block the row may see, from below 0 to
    above `block`; the others' weights are zero. `extent` (1 … block): of how many positions weights are wanted, rounded
    up to segments. `power` is 2**x for a float32x16 that is not above 0. ``store_weights(first, weights)`` emits the
    store of the 16 weights from position `first` on.
    """
    segment = math.gcd(block, SEGMENT)
    vectors = range(segment // LANES)
    segments = keep(ceildiv(extent, segment))
    whole = keep(minimum(segments, T.truncdiv(T.max(visible, T.int64(0)), T.int64(segment))))
    lane = keep(T.ramp(T.int32(0), 1, LANES))
    best = [simd.scratch((LANES,), "float32") for _ in vectors]
    for cell in best:
        simd.store(cell, simd.splat(UNSEEN), 0)
    with T.serial(0, whole) as part:
        for v, cell in zip(vectors, best, strict=True):
            score = simd.load(scores, row, part * segment + v * LANES)
            simd.store(cell, simd.maximum(score, simd.load(cell, 0)), 0)
    with T.serial(whole, segments) as part:
        left = keep(T.cast(visible - part * segment, "int32"))
        for v, cell in zip(vectors, best, strict=True):
            at = part * segment + v * LANES
            seen = lane + simd.splat(T.int32(v * LANES)) < simd.splat(left)
            score = keep(tirx.Select(seen, simd.load(scores, row, at), simd.splat(UNSEEN)))
            simd.store(scores, score, row, at)
            simd.store(cell, simd.maximum(score, simd.load(cell, 0)), 0)
    before = keep(result.top[(*result.at, row)])
    highest = lane_max(_tree([simd.load(cell, 0) for cell in best], lambda a, b: keep(simd.maximum(a, b))))
    top = keep(simd.maximum(before, highest))
    factor = keep(exp2(simd.splat(before - top)))
    T.buffer_store(result.top, top, [*result.at, row])
    simd.store(rescale, factor, row, 0)
    total = simd.scratch((LANES,), "float32")
    simd.store(total, simd.splat(0.0), 0)
    with T.serial(0, segments) as part:
        weights = []
        for v in vectors:
            at = part * segment + v * LANES
            weights.append(keep(power(simd.load(scores, row, at) - simd.splat(top))))
            store_weights(at, weights[-1])
        simd.store(total, simd.load(total, 0) + _tree(weights, lambda a, b: a + b), 0)
    before_total = simd.load(result.total, *result.at, row, 0)
    simd.store(result.total, simd.fma(before_total, factor, simd.load(total, 0)), *result.at, row, 0)


def _tree(values: list[Expr], combine: Callable[[Expr, Expr], Expr]) -> Expr:
    """All values combined in pairs, so that the chain is short."""
    while len(values) > 1:
        pairs = [combine(a, b) for a, b in zip(values[::2], values[1::2], strict=False)]
        values = pairs + values[len(pairs) * 2 :]
    return values[0]
