"""Attention over the paged cache against a plain float64 one: shapes, ragged batches, pages, batching."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm
from support.attention_reference import Problem, normalized, rotated
from support.run_kernel import compile_kernel
from tvm import relax

from vamc_py._tvm import compile_module
from vamc_py.schedules.llvm.attention import AttentionTile, cached_attention

Array = np.ndarray[Any, Any]
Runs = list[tuple[int, int, int]]

SMALL = AttentionTile(tokens=8, rows=4, block=16, chunk=32, split_tokens=2)
"""A tile with which short contexts have many blocks and chunks, and small batches many tiles."""

BATCHES: list[Runs] = [
    [],
    [(0, 0, 1)],
    [(0, 37, 1)],
    [(1, 300, 1), (0, 5, 1)],  # as many as are split by chunk with SMALL
    [(0, 0, 17)],
    [(0, 40, 33)],
    [(2, 0, 5), (0, 77, 1), (1, 3, 20), (3, 270, 2)],  # mixed tiles, whole tiles, several contexts
    [(s, 13 * s, 1) for s in range(12)],
]


def run_plain(run: Any, problem: Problem) -> tuple[Array, Array, Array]:
    """The outputs and both caches after a call without fused_qkv."""
    k_cache, v_cache = problem.k_cache.copy(), problem.v_cache.copy()
    out = np.full((problem.n, problem.heads, problem.head_dim), np.nan, np.float32)
    inputs = (problem.q, problem.k, problem.v, problem.positions, problem.slots, problem.pages)
    run(*inputs, k_cache, v_cache, out)
    return out.reshape(problem.n, problem.heads * problem.head_dim), k_cache, v_cache


def check_plain(run: Any, problem: Problem, scale: float) -> None:
    out, k_cache, v_cache = run_plain(run, problem)
    expected_k, expected_v = problem.written(problem.k, problem.v)
    assert np.array_equal(k_cache, expected_k)
    assert np.array_equal(v_cache, expected_v)
    np.testing.assert_allclose(out, problem.attention(problem.q, k_cache, v_cache, scale), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "page_size", "cache_dtype", "tile"),
    [
        (4, 2, 32, 16, "float16", SMALL),
        (7, 1, 48, 32, "float16", SMALL),  # a group that does not divide the registers, an odd number of vectors
        (3, 3, 16, 512, "float32", SMALL),  # a page a slot
        (26, 1, 16, 64, "float16", SMALL),  # a group larger than the registers' rows
        (6, 2, 128, 16, "float16", AttentionTile()),
    ],
)
def test_against_float64(
    heads: int, kv_heads: int, head_dim: int, page_size: int, cache_dtype: Any, tile: AttentionTile
) -> None:
    kernel = cached_attention(
        heads, kv_heads, head_dim, cache_dtype=cache_dtype, scale=head_dim**-0.5, fused_qkv=False, tile=tile
    )
    run = compile_kernel(kernel)
    for seed, runs in enumerate(BATCHES):
        check_plain(run, Problem(heads, kv_heads, head_dim, page_size, runs, cache_dtype, seed), head_dim**-0.5)


@pytest.mark.parametrize(("head_dim", "eps"), [(64, 1e-6), (48, None)])
def test_fused_projections_are_normalized_rotated_and_written(head_dim: int, eps: float | None) -> None:
    heads, kv_heads, scale = 6, 3, 0.2
    kernel = cached_attention(
        heads, kv_heads, head_dim, cache_dtype="float32", scale=scale, fused_qkv=True, qk_norm_eps=eps
    )
    run = compile_kernel(kernel)
    for runs in BATCHES[:2] + BATCHES[5:7]:
        problem = Problem(heads, kv_heads, head_dim, 16, runs, "float32")
        random, n = problem.random, problem.n
        cos, sin = (random.standard_normal((n, head_dim)).astype(np.float32) for _ in range(2))
        q_norm, k_norm = (random.standard_normal(head_dim).astype(np.float32) for _ in range(2))
        qkv = np.concatenate([problem.q, problem.k, problem.v], axis=1).reshape(n, (heads + 2 * kv_heads) * head_dim)
        out = np.full((n, heads * head_dim), np.nan, np.float32)
        k_cache, v_cache = problem.k_cache.copy(), problem.v_cache.copy()
        norms = () if eps is None else (q_norm, k_norm)
        run(qkv, *norms, cos, sin, problem.positions, problem.slots, problem.pages, k_cache, v_cache, out)

        q, k = problem.q, problem.k
        if eps is not None:
            q, k = normalized(q, q_norm, eps), normalized(k, k_norm, eps)
        q, k = rotated(q, cos, sin), rotated(k, cos, sin)
        expected_k, expected_v = problem.written(k, problem.v)
        np.testing.assert_allclose(k_cache, expected_k, rtol=1e-5, atol=2e-6)
        assert np.array_equal(v_cache, expected_v)
        untouched = expected_k == problem.k_cache
        assert np.array_equal(k_cache[untouched], problem.k_cache[untouched])
        np.testing.assert_allclose(out, problem.attention(q, k_cache, v_cache, scale), rtol=3e-5, atol=5e-6)


def test_a_token_has_the_same_bits_in_every_batch() -> None:
    """The whole prompt at once, in chunks of odd sizes, token by token, and beside other slots."""
    tokens, heads, kv_heads, head_dim = 85, 4, 2, 32
    tile = AttentionTile(tokens=12, rows=6, block=16, chunk=32, split_tokens=3)
    run = compile_kernel(
        cached_attention(heads, kv_heads, head_dim, cache_dtype="float16", scale=0.3, fused_qkv=False, tile=tile)
    )
    whole = Problem(heads, kv_heads, head_dim, 16, [(0, 0, tokens)])
    expected, *_ = run_plain(run, whole)
    other = AttentionTile(tokens=5, rows=3, heads=1, block=16, chunk=32, split_tokens=0)
    shape: Any = {"cache_dtype": "float16", "scale": 0.3, "fused_qkv": False, "tile": other}
    run_other = compile_kernel(cached_attention(heads, kv_heads, head_dim, **shape))
    assert np.array_equal(run_plain(run_other, whole)[0], expected)
    for pieces in ([1] * tokens, [30, 1, 2, 7, 45], [3] * 28 + [1], [84, 1]):
        k_cache, v_cache = whole.k_cache.copy(), whole.v_cache.copy()
        first = 0
        for piece in pieces:
            at = slice(first, first + piece)
            out = np.full((piece, heads, head_dim), np.nan, np.float32)
            inputs = (whole.q, whole.k, whole.v, whole.positions, whole.slots)
            run(*(np.ascontiguousarray(x[at]) for x in inputs), whole.pages, k_cache, v_cache, out)
            assert np.array_equal(out.reshape(piece, heads * head_dim), expected[at])
            first += piece

    beside = Problem(heads, kv_heads, head_dim, 16, [(1, 9, 5), (0, 0, tokens), (2, 0, 4)])
    at = slice(5, 5 + tokens)
    beside.q[at], beside.k[at], beside.v[at] = whole.q, whole.k, whole.v
    out, *_ = run_plain(run, beside)
    assert np.array_equal(out[at], expected)


def test_relax_calls_it_in_place() -> None:
    """R.call_tir_inplace with both caches: the caller's tensors change, and the output is a new one."""
    heads, kv_heads, head_dim, page_size = 4, 2, 32, 32
    problem = Problem(heads, kv_heads, head_dim, page_size, [(1, 40, 3), (0, 2, 1)])
    kernel = cached_attention(heads, kv_heads, head_dim, cache_dtype="float16", scale=0.2, fused_qkv=False)
    n, slots, pages, total, blocks = (tvm.tirx.Var(name, "int64") for name in ("n", "s", "p", "total", "blocks"))
    shapes: list[tuple[list[Any], str]] = [
        ([n, heads, head_dim], "float32"),
        ([n, kv_heads, head_dim], "float32"),
        ([n, kv_heads, head_dim], "float32"),
        ([n], "int32"),
        ([n], "int32"),
        ([slots, pages], "int32"),
        ([total, kv_heads, blocks, head_dim, 16], "float16"),
        ([total, kv_heads, blocks, 16, head_dim], "float16"),
    ]
    arguments = [relax.Var(f"x{i}", relax.TensorType(*shape)) for i, shape in enumerate(shapes)]
    builder = relax.BlockBuilder()
    function = builder.add_func(kernel, "attention")
    types = [arguments[6].ty, arguments[7].ty, relax.TensorType((n, heads, head_dim), "float32")]
    with builder.function("main", arguments):
        with builder.dataflow():
            result = builder.emit(relax.op.call_tir_inplace(function, arguments, [6, 7, -1], types))
            attended = builder.emit_output(relax.TupleGetItem(result, 2))
        builder.emit_func_output(attended)
    machine = relax.VirtualMachine(compile_module(builder.get(), tvm.target.Target.from_device("cpu")), tvm.cpu())
    inputs = (problem.q, problem.k, problem.v, problem.positions, problem.slots, problem.pages)
    tensors = [tvm.runtime.tensor(x) for x in (*inputs, problem.k_cache, problem.v_cache)]
    out = machine["main"](*tensors).numpy().reshape(problem.n, heads * head_dim)
    k_cache, v_cache = problem.written(problem.k, problem.v)
    assert np.array_equal(tensors[6].numpy(), k_cache)
    assert np.array_equal(tensors[7].numpy(), v_cache)
    np.testing.assert_allclose(out, problem.attention(problem.q, k_cache, v_cache, 0.2), rtol=2e-5, atol=2e-6)


def test_what_lies_beyond_the_context_is_not_read() -> None:
    """Cache memory that no token has written may hold anything, NaN too."""
    run = compile_kernel(cached_attention(2, 1, 16, cache_dtype="float16", scale=1.0, fused_qkv=False, tile=SMALL))
    for count in (1, 2, 21):
        problem = Problem(2, 1, 16, 32, [(0, 0, count)])
        problem.k_cache[...] = np.nan
        problem.v_cache[...] = np.nan
        out, k_cache, v_cache = run_plain(run, problem)
        np.testing.assert_allclose(out, problem.attention(problem.q, k_cache, v_cache, 1.0), rtol=2e-5, atol=2e-6)


def test_large_scores_do_not_overflow() -> None:
    run = compile_kernel(cached_attention(2, 1, 16, cache_dtype="float16", scale=30.0, fused_qkv=False, tile=SMALL))
    problem = Problem(2, 1, 16, 16, [(0, 0, 70)])
    out, k_cache, v_cache = run_plain(run, problem)
    # scores reach 500, where a float32 is 3e-5 apart from the next
    np.testing.assert_allclose(out, problem.attention(problem.q, k_cache, v_cache, 30.0), atol=2e-4)


def test_impossible_shapes_are_refused() -> None:
    options: dict[str, Any] = {"cache_dtype": "float16", "scale": 1.0, "fused_qkv": False}
    with pytest.raises(ValueError, match="multiple of 16, not 40"):
        cached_attention(4, 2, 40, **options)
    with pytest.raises(ValueError, match="5 query heads cannot share 2"):
        cached_attention(5, 2, 64, **options)
    with pytest.raises(ValueError, match="qk_norm_eps needs fused_qkv"):
        cached_attention(4, 2, 64, qk_norm_eps=1e-6, **options)
    with pytest.raises(ValueError, match="whole blocks"):
        AttentionTile(block=64, chunk=96)
    with pytest.raises(ValueError, match="do not fit in 24 registers"):
        AttentionTile(rows=25)
