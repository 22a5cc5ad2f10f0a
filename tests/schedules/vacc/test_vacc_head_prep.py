"""Heads of an attention against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from support.vacc_kernels import Array, run_kernel

from vamc_py.runstream.program import Work
from vamc_py.schedules.vacc.head_prep import head_prep

RANDOM = np.random.default_rng(10)


def floats(*shape: int) -> Array:
    return RANDOM.standard_normal(shape, dtype=np.float32)


def turned(x: Array, cos: Array, sin: Array) -> Array:
    """[tokens, heads, dim] rotated."""
    first, second = np.split(x, 2, axis=-1)
    return x * cos[:, None] + np.concatenate([-second, first], axis=-1) * sin[:, None]


def normed(x: Array, weight: Array) -> Array:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * weight


@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize(
    ("tokens", "heads", "kv_heads", "dim", "cores"), [(16, 9, 3, 64, 8), (1, 9, 3, 64, 8), (48, 2, 1, 6, 3)]
)
def test_head_prep(tokens: int, heads: int, kv_heads: int, dim: int, cores: int, norms: bool) -> None:
    width = (heads + 2 * kv_heads) * dim
    stride = width + 3 * norms
    qkv, cos, sin = floats(tokens, stride), floats(tokens, dim), floats(tokens, dim)
    weights = [floats(dim), floats(dim)] if norms else []
    results = [np.zeros((h, tokens, dim), np.float16) for h in (heads, kv_heads, kv_heads)]
    kernel = head_prep(
        tokens, heads, kv_heads, dim, qkv_stride=stride, norms=norms, eps=1e-6 if norms else 0.0, cores=cores
    )
    run_kernel(kernel, qkv.reshape(-1)[: (tokens - 1) * stride + width], *weights, cos, sin, *results)
    q, k, v = results
    if tokens > 1:  # from blocks of 16 positions
        k = k.reshape(kv_heads, tokens // 16, dim, 16).transpose(0, 1, 3, 2).reshape(kv_heads, tokens, dim)
    parts = np.split(qkv[:, :width].astype(np.float64), [heads * dim, (heads + kv_heads) * dim], axis=1)
    wanted_q, wanted_k, wanted_v = (part.reshape(tokens, -1, dim) for part in parts)
    if norms:
        wanted_q, wanted_k = normed(wanted_q, weights[0]), normed(wanted_k, weights[1])
    np.testing.assert_array_equal(v, wanted_v.transpose(1, 0, 2).astype(np.float16))
    for value, wanted in [(q, turned(wanted_q, cos, sin)), (k, turned(wanted_k, cos, sin))]:
        np.testing.assert_allclose(value, wanted.transpose(1, 0, 2), rtol=2.0**-11 + 1e-5, atol=1e-6)


def test_large_heads_saturate() -> None:
    qkv, turn = np.full((1, 6), 1e6, np.float32), np.ones((1, 2), np.float32)
    q, k, v = (np.zeros(2, np.float16) for _ in range(3))
    run_kernel(head_prep(1, 1, 1, 2, cores=1), qkv, turn, turn, q, k, v)
    np.testing.assert_array_equal([q, k, v], [[0, 65504], [0, 65504], [65504, 65504]])


def test_work() -> None:
    def work(*sizes: tuple[int, int]) -> tuple[Work, ...]:
        return tuple(Work(intrinsic="vector", sizes=size, count=1) for size in sizes)

    assert head_prep(1, 3, 1, 8, cores=2).record().work == (work((8, 4)), work((16, 4), (8, 4), (8, 1)))
    assert head_prep(16, 2, 1, 8, norms=True, eps=1e-6, cores=1).record().work == (work((256, 8), (128, 8), (128, 1)),)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="neither 1 nor a multiple"):
        head_prep(5, 1, 1, 8, cores=1)
    with pytest.raises(ValueError, match="no rotation turns heads of 7"):
        head_prep(1, 1, 1, 7, cores=1)
