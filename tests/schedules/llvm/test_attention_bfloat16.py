"""Tiles that multiply in bfloat16: against float64, a model that rounds like the kernel, and what changes bits."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from support.attention_reference import Problem, normalized, rotated
from support.cpu_features import needs_bf16
from support.run_kernel import compile_kernel
from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as build

from vamc_py.schedules.llvm import simd
from vamc_py.schedules.llvm.attention import AttentionTile, cached_attention
from vamc_py.schedules.llvm.math import exp2_rough
from vamc_py.schedules.llvm.simd import InstructionSet

Array = np.ndarray[Any, Any]
Runs = list[tuple[int, int, int]]

SMALL = AttentionTile(tokens=7, rows=4, block=16, chunk=32, wide_block=48, split_tokens=2)
"""A tile with which short contexts have many tiles and blocks."""
ROUNDING = 2.0**-9
"""The largest relative error of one rounding to bfloat16."""

BATCHES: list[Runs] = [
    [(0, 0, 3)],  # an odd context in the first block
    [(0, 0, 17)],
    [(0, 40, 33)],
    [(1, 300, 1), (0, 5, 1)],  # tokens alone: float32
    [(2, 0, 5), (0, 77, 1), (1, 3, 20), (3, 270, 2), (4, 91, 58)],  # tiles and tokens alone side by side
]


def run_plain(run: Any, problem: Problem) -> Array:
    """The outputs [n, heads, head_dim] of a kernel without fused_qkv; `problem`'s caches change."""
    out = np.full((problem.n, problem.heads, problem.head_dim), np.nan, np.float32)
    inputs = (problem.q, problem.k, problem.v, problem.positions, problem.slots, problem.pages)
    run(*inputs, problem.k_cache, problem.v_cache, out)
    return out


def rounded(x: Array) -> Array:
    return x.astype(np.float32).astype(ml_dtypes.bfloat16).astype(np.float64)


def rough_power(x: Array) -> Array:
    """exp2_rough, its operations in float64 and rounded once."""
    down = np.floor(x)
    rest = x - down
    value = 1 + rest * (0.69511679 + rest * (0.22764496 + rest * 0.07706707))
    return (value * 2.0**down).astype(np.float32).astype(np.float64)


def modelled(problem: Problem, scale: float, tile: AttentionTile) -> Array:
    """What the kernel computes for tokens in tiles, with exact sums; `problem`'s caches are those after the step."""
    out = np.zeros((problem.n, problem.heads, problem.head_dim))
    queries = rounded(problem.q * np.float32(scale * np.log2(np.e)))
    group = problem.heads // problem.kv_heads
    for i in range(problem.n):
        slot, length = int(problem.slots[i]), int(problem.positions[i]) + 1
        places = [problem.place(slot, t) for t in range(length)]
        keys = rounded(np.stack([problem.k_cache[p, :, b, :, t] for p, b, t in places]))
        values = rounded(np.stack([problem.v_cache[p, :, b, t, :] for p, b, t in places]))
        for head in range(problem.heads):
            scores = keys[:, head // group] @ queries[i, head]
            top, total, result = -1e30, 0.0, np.zeros(problem.head_dim)
            for first in range(0, length, tile.wide_block):
                block = slice(first, first + tile.wide_block)
                before, top = top, max(top, scores[block].max())
                weights = rough_power(scores[block] - top)
                result = result * 2.0 ** (before - top) + rounded(weights) @ values[block, head // group]
                total = total * 2.0 ** (before - top) + weights.sum()
            out[i, head] = result / total
    return out


def kernel(heads: int, kv_heads: int, head_dim: int, tile: AttentionTile | None, **options: Any) -> Any:
    given: dict[str, Any] = {"cache_dtype": "float16", "scale": head_dim**-0.5, "fused_qkv": False, "tile": tile}
    return compile_kernel(cached_attention(heads, kv_heads, head_dim, **{**given, "products": "bfloat16", **options}))


@needs_bf16
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "page_size", "cache_dtype", "tile"),
    [
        (4, 2, 32, 16, "float16", SMALL),
        (7, 1, 48, 32, "float16", SMALL),  # a group that does not divide the registers, an odd number of vectors
        (3, 3, 16, 512, "float32", SMALL),  # a page a slot
        (26, 2, 64, 64, "float16", None),  # a group larger than the registers' rows
    ],
)
def test_against_float64_and_the_model(
    heads: int, kv_heads: int, head_dim: int, page_size: int, cache_dtype: Any, tile: AttentionTile | None
) -> None:
    run, scale = kernel(heads, kv_heads, head_dim, tile, cache_dtype=cache_dtype), head_dim**-0.5
    tile = tile or AttentionTile.default()
    for seed, runs in enumerate(BATCHES):
        problem = Problem(heads, kv_heads, head_dim, page_size, runs, cache_dtype, seed)
        expected_k, expected_v = problem.written(problem.k, problem.v)
        out = run_plain(run, problem)
        assert np.array_equal(problem.k_cache, expected_k)
        assert np.array_equal(problem.v_cache, expected_v)
        exact = problem.attention(problem.q, expected_k, expected_v, scale).reshape(out.shape)
        counts = np.bincount(problem.slots)[problem.slots]
        tiled = counts > tile.split_tokens
        np.testing.assert_allclose(out[~tiled], exact[~tiled], rtol=2e-5, atol=2e-6)
        if not tiled.any():
            continue
        # A value of up to 4 is rounded once, and each weight moves by its own rounding and that of its score, which has
        # the standard deviation 1: these average out over the context. Few positions may have all roundings one way.
        error = np.abs(out - exact)[tiled]
        assert error.max() < 12 * ROUNDING
        assert np.sqrt(np.mean(error**2)) < ROUNDING
        # Sums in float32 move a score by 1e-6, so that now and then a weight is rounded to the other neighbour.
        error = np.abs(out - modelled(problem, scale, tile))[tiled]
        assert error.max() < 4 * ROUNDING
        assert np.quantile(error, 0.98) < 2e-5


@needs_bf16
def test_fused_projections_are_rotated_before_they_are_rounded() -> None:
    heads, kv_heads, head_dim, eps, scale = 6, 3, 64, 1e-6, 0.2
    run = kernel(heads, kv_heads, head_dim, SMALL, fused_qkv=True, qk_norm_eps=eps, scale=scale)
    problem = Problem(heads, kv_heads, head_dim, 16, [(0, 0, 40), (2, 31, 1), (1, 13, 25)])
    random, n = problem.random, problem.n
    cos, sin = (random.standard_normal((n, head_dim)).astype(np.float32) / 2 for _ in range(2))
    q_norm, k_norm = (random.standard_normal(head_dim).astype(np.float32) for _ in range(2))
    qkv = np.concatenate([problem.q, problem.k, problem.v], axis=1).reshape(n, (heads + 2 * kv_heads) * head_dim)
    out = np.full((n, heads * head_dim), np.nan, np.float32)
    rest = (cos, sin, problem.positions, problem.slots, problem.pages, problem.k_cache, problem.v_cache, out)
    run(qkv, q_norm, k_norm, *rest)
    q, k = (rotated(normalized(x, w, eps), cos, sin) for x, w in ((problem.q, q_norm), (problem.k, k_norm)))
    expected_k, expected_v = problem.written(k, problem.v)
    # The products of k are sums in float32; to float16 some are rounded to the other neighbour.
    np.testing.assert_allclose(problem.k_cache, expected_k, rtol=2e-3, atol=2e-3)
    assert np.array_equal(problem.v_cache, expected_v)
    exact = problem.attention(q, problem.k_cache, problem.v_cache, scale)
    assert np.sqrt(np.mean((out - exact) ** 2)) < 2 * ROUNDING


@needs_bf16
def test_only_the_number_of_a_slots_tokens_changes_bits() -> None:
    """Pieces of a prompt, tiles, pages and neighbours change nothing, as long as each piece goes in tiles."""
    tokens, shape = 85, (4, 2, 32)
    tile = AttentionTile(tokens=12, rows=6, block=16, chunk=32, wide_block=32, split_tokens=3)
    run = kernel(*shape, tile)
    whole = Problem(*shape, 16, [(0, 0, tokens)])
    caches = whole.k_cache.copy(), whole.v_cache.copy()
    expected = run_plain(run, whole)
    assert np.array_equal(run_plain(run, whole), expected)
    other = kernel(*shape, AttentionTile(tokens=5, rows=3, heads=1, block=16, chunk=64, wide_block=32, split_tokens=0))
    assert np.array_equal(run_plain(other, whole), expected)
    for pieces in ([30, 4, 6, 45], [17] * 5):
        whole.k_cache[...], whole.v_cache[...] = caches
        first = 0
        for piece in pieces:
            at = slice(first, first + piece)
            out = np.full((piece, *whole.q.shape[1:]), np.nan, np.float32)
            inputs = (whole.q, whole.k, whole.v, whole.positions, whole.slots)
            run(*(np.ascontiguousarray(x[at]) for x in inputs), whole.pages, whole.k_cache, whole.v_cache, out)
            assert np.array_equal(out, expected[at])
            first += piece

    beside = Problem(*shape, 32, [(1, 9, 5), (0, 0, tokens), (2, 50, 1)])
    at = slice(5, 5 + tokens)
    beside.q[at], beside.k[at], beside.v[at] = whole.q, whole.k, whole.v
    assert np.array_equal(run_plain(run, beside)[at], expected)


@needs_bf16
def test_few_tokens_of_a_slot_have_the_bits_of_float32() -> None:
    runs = [(0, 60, 2), (1, 7, 1), (2, 33, 2)]
    outputs = [
        run_plain(kernel(4, 2, 32, SMALL, products=products), Problem(4, 2, 32, 16, runs))
        for products in ("float32", "bfloat16")
    ]
    assert np.array_equal(*outputs)


@needs_bf16
def test_a_tile_does_not_read_beyond_the_context() -> None:
    """Cache memory that no token has written may hold anything, NaN too, also in a pair with the last value."""
    run = kernel(2, 1, 16, SMALL)
    for count in (3, 4, 21, 49):
        problem = Problem(2, 1, 16, 32, [(0, 0, count)])
        problem.k_cache[...] = np.nan
        problem.v_cache[...] = np.nan
        out = run_plain(run, problem)
        exact = problem.attention(problem.q, problem.k_cache, problem.v_cache, 0.25)
        assert np.abs(out.reshape(exact.shape) - exact).max() < 12 * ROUNDING


@needs_bf16
def test_the_rough_power_is_as_exact_as_its_docstring_says() -> None:
    with IRBuilder() as module, build.prim_func(s_tir=True):
        build.func_name("powers")
        rows = T.int32()
        x = build.arg("x", build.buffer((rows, 16), "float32"))
        y = build.arg("y", build.buffer((rows, 16), "float32"))
        with T.serial(0, rows) as row:
            simd.store(y, exp2_rough(simd.load(x, row, 0)), row, 0)
    exponents = -np.random.default_rng(0).exponential(20, (4000, 16)).astype(np.float32)
    exponents[0, :4] = 0, -1, -2e30, -500
    powers = np.zeros_like(exponents)
    compile_kernel(module.get())(exponents, powers)
    assert np.array_equal(powers[0, :4], np.array([1, 0.5, 0, 0], np.float32))
    normal = exponents > -126
    np.testing.assert_allclose(powers[normal], np.exp2(exponents[normal].astype(np.float64)), rtol=1e-4)


def test_what_cannot_be_is_refused() -> None:
    options: dict[str, Any] = {"cache_dtype": "float16", "scale": 1.0, "fused_qkv": False}
    with pytest.raises(ValueError, match="not in float16"):
        cached_attention(4, 2, 32, products="float16", **options)  # type: ignore[arg-type]
    with simd.using(InstructionSet(True, "avx512", False)), pytest.raises(ValueError, match="need AVX512_BF16"):
        cached_attention(4, 2, 32, products="bfloat16", **options)
    with pytest.raises(ValueError, match="whole vectors"):
        AttentionTile(wide_block=40)
