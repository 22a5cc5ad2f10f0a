"""Attention over an int8 cache: what is written byte by byte, and the result against float64 over what is read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support.attention_reference import Problem
from support.cpu_features import needs_bf16
from support.run_kernel import compile_kernel

from vamc_py.dialect.int8_cache import SCALE_ROWS
from vamc_py.schedules.llvm.attention import AttentionTile, cached_attention

Array = np.ndarray[Any, Any]
SMALL = AttentionTile(tokens=8, rows=4, block=16, chunk=32, wide_block=32, split_tokens=2)
BATCHES: list[list[tuple[int, int, int]]] = [
    [],
    [(0, 37, 1)],
    [(1, 300, 1), (0, 5, 1)],
    [(0, 0, 17)],
    [(0, 40, 33)],
    [(2, 0, 5), (0, 77, 1), (1, 3, 20), (3, 270, 2)],
]


def rounded(x: Array) -> tuple[Array, Array]:
    """int8 [..., d] and float32 [...] of float32 [..., d], as the operator defines them."""
    largest = np.abs(x).max(axis=-1)
    scale = np.where(largest < 1e-30, np.float32(0), largest * np.float32(1 / 127)).astype(np.float32)
    inverse = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest >= 1e-30)
    return np.rint(x.astype(np.float64) * inverse[..., None]).astype(np.int8), scale


def mixed(x: Array) -> Array:
    """The Hadamard transform in blocks of the largest power of two, in the kernel's order of float32 sums."""
    size = x.shape[-1] & -x.shape[-1]
    blocks = x.reshape(*x.shape[:-1], x.shape[-1] // size, size)
    for _ in range(size.bit_length() - 1):
        low, high = blocks[..., : size // 2], blocks[..., size // 2 :]
        blocks = np.stack([low + high, low - high], axis=-1).reshape(blocks.shape)
    return blocks.reshape(x.shape)


def test_the_transform_is_hadamards() -> None:
    matrix = mixed(np.eye(24))
    assert np.array_equal(matrix @ matrix.T, 8 * np.eye(24))
    signs = [[(-1) ** (i & j).bit_count() for j in range(8)] for i in range(8)]
    assert np.array_equal(matrix[8:16, 8:16], signs)


class Int8Problem:
    """A problem whose caches hold random integers and scales; what was never written has scales that are NaN."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        p, random = problem, np.random.default_rng(99)
        shape = p.k_cache.shape[:3]
        written = np.zeros((*shape, 16), bool)
        for slot, first, _ in p.runs:
            for t in range(first):
                page, block, lane = p.place(slot, t)
                written[page, :, block, lane] = True
        self.integers = [random.integers(-127, 128, (*shape, 16, p.head_dim)).astype(np.int8) for _ in "kv"]
        self.scales = [
            np.where(written, random.uniform(0.005, 0.02, (*shape, 16)), np.nan).astype(np.float32) for _ in "kv"
        ]

    def buffers(self) -> tuple[Array, Array]:
        """Both caches as the kernel has them."""
        keys, values = self.integers
        return (
            self._joined(np.ascontiguousarray(keys.swapaxes(-1, -2)), self.scales[0]),
            self._joined(values, self.scales[1]),
        )

    def _joined(self, integers: Array, scales: Array) -> Array:
        lead = scales.shape[:-1]
        rows = [integers.reshape(*lead, -1, 16), scales.view(np.int8).reshape(*lead, SCALE_ROWS, 16)]
        return np.ascontiguousarray(np.concatenate(rows, axis=-2))

    def write(self) -> None:
        """The new tokens' keys and values."""
        p = self.problem
        for x, integers, scales in zip((mixed(p.k), p.v), self.integers, self.scales, strict=True):
            whole, scale = rounded(x)
            for i in range(p.n):
                page, block, lane = p.place(int(p.slots[i]), int(p.positions[i]))
                integers[page, :, block, lane] = whole[i]
                scales[page, :, block, lane] = scale[i]

    def attention(self, scale: float) -> Array:
        keys, values = (
            integers.astype(np.float64) * scales[..., None].astype(np.float64)
            for integers, scales in zip(self.integers, self.scales, strict=True)
        )
        queries = mixed(self.problem.q) / (self.problem.head_dim & -self.problem.head_dim)
        return self.problem.attention(queries, keys.swapaxes(-1, -2), values, scale)


def run(kernel: Any, given: Int8Problem) -> tuple[Array, Array, Array]:
    p = given.problem
    keys, values = given.buffers()
    out = np.full((p.n, p.heads, p.head_dim), np.nan, np.float32)
    kernel(p.q, p.k, p.v, p.positions, p.slots, p.pages, keys, values, out)
    return out.reshape(p.n, p.heads * p.head_dim), keys, values


SHAPES = [
    (4, 2, 32, 16, SMALL),
    (7, 1, 48, 32, SMALL),  # a group that does not divide the registers, an odd number of vectors
    (26, 1, 16, 64, SMALL),  # a group larger than the registers' rows
    (6, 2, 128, 16, AttentionTile()),
]


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim", "page_size", "tile"), SHAPES)
def test_against_float64(heads: int, kv_heads: int, head_dim: int, page_size: int, tile: AttentionTile) -> None:
    scale = head_dim**-0.5
    kernel = compile_kernel(
        cached_attention(heads, kv_heads, head_dim, cache_dtype="int8", scale=scale, fused_qkv=False, tile=tile)
    )
    for seed, runs in enumerate(BATCHES):
        given = Int8Problem(Problem(heads, kv_heads, head_dim, page_size, runs, seed=seed))
        out, keys, values = run(kernel, given)
        given.write()
        expected_keys, expected_values = given.buffers()
        assert np.array_equal(keys, expected_keys)
        assert np.array_equal(values, expected_values)
        np.testing.assert_allclose(out, given.attention(scale), rtol=3e-5, atol=3e-6)


@needs_bf16
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim", "page_size", "tile"), SHAPES)
def test_tiles_in_bfloat16(heads: int, kv_heads: int, head_dim: int, page_size: int, tile: AttentionTile) -> None:
    scale = head_dim**-0.5
    options: dict[str, Any] = {"cache_dtype": "int8", "scale": scale, "fused_qkv": False, "products": "bfloat16"}
    kernel = compile_kernel(cached_attention(heads, kv_heads, head_dim, tile=tile, **options))
    for seed, runs in enumerate(BATCHES[1:]):
        given = Int8Problem(Problem(heads, kv_heads, head_dim, page_size, runs, seed=seed))
        out, keys, _ = run(kernel, given)
        given.write()
        assert np.array_equal(keys, given.buffers()[0])
        expected = given.attention(scale)
        assert np.linalg.norm(out - expected) < 0.01 * np.linalg.norm(expected)


def test_a_token_has_the_same_bits_in_every_batch() -> None:
    tokens, heads, kv_heads, head_dim = 85, 4, 2, 32
    tile = replace(SMALL, tokens=12, rows=6, split_tokens=3)
    options: dict[str, Any] = {"cache_dtype": "int8", "scale": 0.3, "fused_qkv": False}
    kernel = compile_kernel(cached_attention(heads, kv_heads, head_dim, tile=tile, **options))
    whole = Int8Problem(Problem(heads, kv_heads, head_dim, 16, [(0, 0, tokens)]))
    expected, *_ = run(kernel, whole)
    p = whole.problem
    for pieces in ([1] * tokens, [30, 1, 2, 7, 45], [84, 1]):
        keys, values = whole.buffers()
        first = 0
        for piece in pieces:
            at = slice(first, first + piece)
            out = np.full((piece, heads, head_dim), np.nan, np.float32)
            inputs = (np.ascontiguousarray(x[at]) for x in (p.q, p.k, p.v, p.positions, p.slots))
            kernel(*inputs, p.pages, keys, values, out)
            assert np.array_equal(out.reshape(piece, -1), expected[at])
            first += piece


def test_zeros_stay_zeros() -> None:
    kernel = compile_kernel(cached_attention(2, 1, 16, cache_dtype="int8", scale=1.0, fused_qkv=False, tile=SMALL))
    problem = Problem(2, 1, 16, 16, [(0, 0, 3)])
    problem.k[:] = 0
    problem.v[1] = 0
    given = Int8Problem(problem)
    out, *_ = run(kernel, given)
    given.write()
    np.testing.assert_allclose(out, given.attention(1.0), rtol=1e-5, atol=1e-6)
