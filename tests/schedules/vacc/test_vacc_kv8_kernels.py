"""The kernels of an int8 KV cache against numpy, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.vacc_kernels import Array, run_kernel

from vamc_py.dialect.int8_cache import mixed_block
from vamc_py.runstream.program import Work
from vamc_py.schedules.vacc.head_prep_int8 import head_prep_int8
from vamc_py.schedules.vacc.quantization import dequantize_rows
from vamc_py.schedules.vacc.rms_norm import rms_norm

RANDOM = np.random.default_rng(12)


def floats(*shape: int) -> Array:
    return RANDOM.standard_normal(shape, dtype=np.float32)


def turned(x: Array, cos: Array, sin: Array) -> Array:
    """[tokens, heads, dim] rotated, each product and sum rounded to float32."""
    first, second = np.split(x, 2, axis=-1)
    cos, sin = cos[:, None], sin[:, None]
    half = first.shape[-1]
    low = first * cos[..., :half] - second * sin[..., :half]
    return np.concatenate([low, second * cos[..., half:] + first * sin[..., half:]], axis=-1)


def normed(x: Array, weight: Array, eps: float) -> Array:
    """[tokens, heads, dim] by the kernel that has its own test."""
    flat, out = np.ascontiguousarray(x).reshape(-1, x.shape[-1]), np.empty(x.size, np.float32)
    run_kernel(rms_norm(len(flat), x.shape[-1], eps, out="float32", cores=1), flat, weight, out)
    return out.reshape(x.shape)


def mixed(x: Array) -> Array:
    """The Hadamard transform of blocks of features, in float32: neighbours first."""
    apart, block = 1, mixed_block(x.shape[-1])
    while apart < block:
        pairs = x.reshape(*x.shape[:-1], -1, 2, apart)
        low, high = pairs[..., 0, :], pairs[..., 1, :]
        x = np.stack([low + high, low - high], axis=-2).reshape(x.shape)
        apart *= 2
    return x


def rounded(x: Array) -> tuple[Array, Array]:
    """int8 [tokens, heads, dim] and scales [heads, tokens], as dialect.int8_cache writes them."""
    largest = np.abs(x).max(-1, keepdims=True)
    scale = np.where(largest < np.float32(1e-30), np.float32(0), largest * np.float32(1 / 127))
    whole = np.where(scale > 0, np.rint(x / np.where(scale > 0, scale, np.float32(1))), 0)
    return whole.astype(np.int8), scale[..., 0].T


@pytest.mark.parametrize("offset", [False, True])
@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize(
    ("tokens", "heads", "kv_heads", "dim", "cores"),
    [(16, 9, 3, 64, 8), (1, 9, 3, 64, 8), (48, 2, 1, 6, 3), (1, 2, 2, 80, 2)],
)
def test_head_prep_int8(
    tokens: int, heads: int, kv_heads: int, dim: int, cores: int, norms: bool, offset: bool
) -> None:
    width = (heads + 2 * kv_heads) * dim
    stride = width + 3 * norms
    qkv, cos, sin = floats(tokens, stride), floats(tokens, dim), floats(tokens, dim)
    qkv[0, width - dim : width] = 1e-31  # the last value of the first token: too small for a scale
    weights = [floats(dim), floats(dim)] if norms else []
    taken = [10 * floats(kv_heads, dim)] if offset else []
    q = np.zeros((heads, tokens, dim), np.float16)
    k, v = (np.full((kv_heads, tokens, dim), 77, np.int8) for _ in range(2))
    scales = [np.full((kv_heads, tokens), 7, np.float32) for _ in range(2)]
    eps = 1e-6 if norms else 0.0
    kernel = head_prep_int8(
        tokens, heads, kv_heads, dim, qkv_stride=stride, norms=norms, eps=eps, offset=offset, cores=cores
    )
    rows = qkv.reshape(-1)[: (tokens - 1) * stride + width]
    run_kernel(kernel, rows, *weights, *taken, cos, sin, q, k, v, *scales)
    if tokens > 1:  # from blocks of 16 positions
        k = k.reshape(kv_heads, tokens // 16, dim, 16).transpose(0, 1, 3, 2).reshape(kv_heads, tokens, dim)
    parts = np.split(qkv[:, :width], [heads * dim, (heads + kv_heads) * dim], axis=1)
    wanted_q, wanted_k, wanted_v = (part.reshape(tokens, -1, dim) for part in parts)
    if norms:
        wanted_q, wanted_k = normed(wanted_q, weights[0], eps), normed(wanted_k, weights[1], eps)
    wanted_q, wanted_k = turned(wanted_q, cos, sin), turned(wanted_k, cos, sin)
    if offset:
        wanted_k = wanted_k - taken[0]
    queries = mixed(wanted_q) * np.float32(1 / mixed_block(dim))
    np.testing.assert_array_equal(q, queries.astype(np.float16).transpose(1, 0, 2))
    for got, got_scale, wanted in [(k, scales[0], mixed(wanted_k)), (v, scales[1], wanted_v)]:
        values, scale = rounded(wanted)
        np.testing.assert_array_equal(got_scale, scale)
        np.testing.assert_array_equal(got, values.transpose(1, 0, 2))
        assert np.abs(got).max() == 127
    assert scales[1][-1, 0] == 0
    assert (v[-1, 0] == 0).all()


def test_mixing_is_the_hadamard_transform() -> None:
    matrix = np.array([[(-1) ** (i & j).bit_count() for j in range(8)] for i in range(8)], np.float32)
    x = RANDOM.integers(-9, 10, (3, 2, 24)).astype(np.float32)  # blocks of 8, exact
    np.testing.assert_array_equal(mixed(x), (x.reshape(3, 2, 3, 8) @ matrix).reshape(x.shape))


@given(rows=st.integers(1, 40), columns=st.integers(1, 40), cores=st.integers(1, 5))
@settings(max_examples=8, deadline=None)
def test_dequantized_rows(rows: int, columns: int, cores: int) -> None:
    w = RANDOM.integers(-127, 128, (rows, columns)).astype(np.int8)
    scale = np.abs(floats(rows)) * np.float32(10)
    scale[0] = 1e6
    w[0] = 127
    out = np.zeros((rows, columns), np.float16)
    run_kernel(dequantize_rows(rows, columns, cores=cores), w, scale, out)
    wanted = np.clip(w.astype(np.float32) * scale[:, None], -65504, 65504).astype(np.float16)
    np.testing.assert_array_equal(out, wanted)
    assert (out[0] == 65504).all()


def test_work() -> None:
    def work(*sizes: tuple[int, int]) -> tuple[Work, ...]:
        return tuple(Work(intrinsic="vector", sizes=size, count=1) for size in sizes)

    # 3 for the rotation and 3 for mixing 8; then 2 for q; 8 for k and v.
    assert head_prep_int8(1, 3, 1, 8, cores=2).record().work == (work((8, 8)), work((16, 8), (8, 14), (8, 8)))
    kernel = head_prep_int8(16, 2, 1, 8, norms=True, eps=1e-6, offset=True, cores=1)
    assert kernel.record().work == (work((256, 12), (128, 19), (128, 8)),)
    assert dequantize_rows(3, 5, cores=2).record().work == (work((5, 3)), work((10, 3)))


def test_refusals() -> None:
    with pytest.raises(ValueError, match="neither 1 nor a multiple"):
        head_prep_int8(5, 1, 1, 8, cores=1)
    with pytest.raises(ValueError, match="lie 20 apart"):
        head_prep_int8(1, 1, 1, 8, qkv_stride=20, cores=1)
