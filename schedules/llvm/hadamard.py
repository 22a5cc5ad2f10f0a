"""The Walsh-Hadamard transform of a head's features, which spreads what stands out in one of them over all.

A head of d features goes in blocks of the largest power of two that divides d: y[i] = sum of (-1)**popcount(i & j) x[j]
over a block. Queries and keys that both go through it keep their products (times the size of a block), while one large
feature of a key no longer decides how coarsely int8 takes the others (the method of QuaRot, arXiv 2404.00456).

Constant geometry after Pease: each step adds and subtracts the halves of a block and interleaves the results, and after
as many steps as the size has bits everything is in its place.
"""

from __future__ import annotations

from tvm.script import tirx as T

from . import simd
from .simd import LANES, Expr, keep


def block_of(features: int) -> int:
    """The size of a block: the largest power of two that divides `features`."""
    return features & -features


def hadamard(vectors: list[Expr]) -> list[Expr]:
    """The transform of a head in float32x16 vectors, unscaled. Emits bindings."""
    count = block_of(len(vectors) * LANES) // LANES
    return [mixed for first in range(0, len(vectors), count) for mixed in _block(vectors[first : first + count])]


def _block(vectors: list[Expr]) -> list[Expr]:
    for _ in range((len(vectors) * LANES).bit_length() - 1):
        if len(vectors) == 1:
            vectors = _step([T.vectorlow("float32x8", vectors[0])], [T.vectorhigh("float32x8", vectors[0])], 8)
        else:
            half = len(vectors) // 2
            vectors = _step(vectors[:half], vectors[half:], LANES)
    return vectors


def _step(low: list[Expr], high: list[Expr], lanes: int) -> list[Expr]:
    """Sums and differences, interleaved: whole vectors of 16."""
    result = []
    for a, b in zip(low, high, strict=True):
        both = simd.intrinsic("llvm.vector.interleave2", f"float32x{2 * lanes}", keep(a + b), keep(a - b))
        if lanes < LANES:
            result.append(keep(both))
            continue
        pair = keep(both)
        result += [keep(T.vectorlow("float32x16", pair)), keep(T.vectorhigh("float32x16", pair))]
    return result
