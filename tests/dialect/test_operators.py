"""The R.vamc operators: types, text form, and every reference lowering against numpy and torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from support.ragged_attention import RaggedAttention
from support.relax_modules import Compiled, tensor
from torch.nn import functional
from tvm import relax, tirx
from tvm.script import from_source

from vamc_py import dialect
from vamc_py.pipeline.program import Program
from vamc_py.weights.plan import ParameterPlan

Array = np.ndarray[Any, Any]
N = tirx.Var("n", "int64")


def program(build: Callable[..., Any], *kinds: tuple[Sequence[Any], str]) -> Program:
    """``main`` over parameters of these shapes and types; ``build`` makes one value of them, or a list."""
    parameters = [relax.Var(f"x{i}", relax.TensorType(list(shape), dtype)) for i, (shape, dtype) in enumerate(kinds)]
    builder = relax.BlockBuilder()
    with builder.function("main", parameters):
        with builder.dataflow():
            made = build(*parameters)
            values = [builder.emit(value) for value in (made if isinstance(made, list) else [made])]
            output = builder.emit_output(values[0] if len(values) == 1 else relax.Tuple(values))
        builder.emit_func_output(output)
    return Program(builder.get(), ParameterPlan())


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def symbols(*names: str) -> list[Any]:
    return [tirx.Var(name, "int64") for name in names]


def attention_kinds(heads: int, kv_heads: int, dim: int, dtype: str) -> list[tuple[Sequence[Any], str]]:
    s, p, pages, blocks = symbols("s", "p", "num_pages", "blocks")
    return [
        *(((N, count, dim), "float32") for count in (heads, kv_heads, kv_heads)),
        ((N,), "int32"), ((N,), "int32"), ((s, p), "int32"),
        ((pages, kv_heads, blocks, dim, 16), dtype), ((pages, kv_heads, blocks, 16, dim), dtype),
    ]  # fmt: skip


def qkv_program(norms: bool) -> Program:
    *_, positions, slots, pages, k_cache, v_cache = attention_kinds(4, 2, 8, "float32")
    kinds = [((N, 64), "float32"), *[((8,), "float32")] * (2 * norms), *[((N, 8), "float32")] * 2]
    return program(
        lambda *x: dialect.qkv_attention(*x, heads=4, kv_heads=2, head_dim=8, scale=0.3, epsilon=1e-5 * norms),
        *kinds, positions, slots, pages, k_cache, v_cache,
    )  # fmt: skip


def append_program(dtype: str) -> Program:
    """The keys and the values of one sequence in caches of 40 positions: cache_append with both layouts."""
    *_, positions, slots, pages, k_cache, v_cache = attention_kinds(4, 2, 8, dtype)

    def both(k: Any, v: Any, positions: Any, slots: Any, pages: Any, k_cache: Any, v_cache: Any) -> list[Any]:
        where = positions, slots, pages
        return [
            dialect.cache_append(k, *where, k_cache, length=40, keys=True),
            dialect.cache_append(v, *where, v_cache, length=40, keys=False),
        ]

    return program(both, *[((1, 2, N, 8), "float32")] * 2, positions, slots, pages, k_cache, v_cache)


ROWS = ((N, 8), "float32")
BATCH = ((1, N, 8), "float32")
PROGRAMS: dict[str, tuple[Program, Any]] = {
    "linear": (program(dialect.linear, ROWS, ((6, 8), "float16")), (N, 6)),
    "linear int8, with bias and residual": (
        program(
            lambda *x: dialect.linear(*x, bias=True, residual=True),
            BATCH, ((8, 8), "int8"), ((8,), "float32"), ((8,), "float32"), BATCH,
        ),
        (1, N, 8),
    ),
    "embedding": (program(dialect.embedding, ((1, N), "int32"), ((9, 6), "bfloat16")), (1, N, 6)),
    "embedding int8": (
        program(dialect.embedding, ((N,), "int32"), ((9, 6), "int8"), ((9,), "float32")),
        (N, 6),
    ),
    "embedding, a slice of the table": (
        program(lambda *x: dialect.embedding(*x, first=9), ((N,), "int32"), ((9, 6), "float32")),
        (N, 6),
    ),
    "all_reduce": (program(lambda x: dialect.all_reduce(x, ranks=3), BATCH), (1, N, 8)),
    "all_reduce, with residual": (program(lambda *x: dialect.all_reduce(*x, ranks=3), ROWS, ROWS), (N, 8)),
    "all_gather": (program(lambda x: dialect.all_gather(x, ranks=3), ROWS), (N, 24)),
    "all_gather, the first columns": (program(lambda x: dialect.all_gather(x, ranks=3, columns=17), ROWS), (N, 17)),
    "rms_norm": (program(lambda *x: dialect.rms_norm(*x, epsilon=1e-6), BATCH, ((8,), "float32")), (1, N, 8)),
    "rotary_angles": (
        program(lambda *x: dialect.rotary_angles(*x, scaling=1.5), ((1, N), "int32"), ((4,), "float32")),
        [(1, N, 8)] * 2,
    ),
    "rotary": (program(dialect.rotary, ((N, 3, 8), "float32"), ROWS, ROWS), (N, 3, 8)),
    "swiglu": (program(dialect.swiglu, ROWS, ROWS), (N, 8)),
    "swiglu of a merged projection": (program(dialect.swiglu, BATCH), (1, N, 4)),
    "select_rows": (program(dialect.select_rows, BATCH, ((3,), "int32")), (1, 3, 8)),
    "attention": (
        program(
            lambda *x: dialect.attention(*x, scale=0.5),
            *(((1, N, h, 8), "float32") for h in (4, 2, 2)), ((1, 1, N, N), "float32"),
        ),
        (1, N, 4, 8),
    ),
    "cached_attention": (
        program(lambda *x: dialect.cached_attention(*x, scale=0.5), *attention_kinds(4, 2, 8, "float16")),
        (N, 4, 8),
    ),
    "qkv_attention": (qkv_program(norms=True), (N, 32)),
    "cache_append": (append_program("float16"), [(1, 2, 40, 8)] * 2),
    "causal_mask": (program(lambda x: dialect.causal_mask(x, length=40, kind="ones"), ((N,), "int32")), (1, 1, N, 40)),
}  # fmt: skip


@pytest.mark.parametrize(("one", "shape"), PROGRAMS.values(), ids=PROGRAMS.keys())
def test_types_are_inferred(one: Program, shape: Any) -> None:
    """A list of shapes stands for several values."""
    several = isinstance(shape, list)
    kinds = [relax.TensorType(list(dimensions), "float32") for dimensions in (shape if several else [shape])]
    expected = relax.TupleType(kinds) if several else kinds[0]
    tvm.ir.assert_structural_equal(one.function.ret_ty, expected, map_free_vars=True)


@pytest.mark.parametrize("one", [one for one, _ in PROGRAMS.values()], ids=PROGRAMS.keys())
def test_printed_text_parses_back(one: Program) -> None:
    text = one.module.script()
    assert "R.vamc." in text
    tvm.ir.assert_structural_equal(from_source(text), one.module, map_free_vars=True)


def test_every_operator_is_documented_and_tested_here() -> None:
    known = dialect.operators()
    tested = {name.split()[0].rstrip(",") for name in PROGRAMS}
    assert {operator.name for operator in known.values()} == tested
    for full_name, operator in known.items():
        assert full_name == operator.full_name == operator.op.name
        assert "f32" in operator.documentation, f"{full_name}: the docstring gives no shapes"


@pytest.mark.parametrize("weight", ["float32", "float16", "bfloat16", "int8"])
def test_linear(weight: str) -> None:
    quantized = weight == "int8"
    w = normal(0, 6, 8) * (40 if quantized else 1)
    w = w.astype(ml_dtypes.bfloat16 if weight == "bfloat16" else weight)
    kinds = [ROWS, ((6, 8), weight), *[((6,), "float32")] * (1 + quantized), ((N, 6), "float32")]

    def variants(x: Any, matrix: Any, *rest: Any) -> list[Any]:
        *scale, bias, residual = rest
        return [
            dialect.linear(x, matrix, *scale),
            dialect.linear(x, matrix, *scale, bias, bias=True),
            dialect.linear(x, matrix, *scale, residual, residual=True),
            dialect.linear(x, matrix, *scale, bias, residual, bias=True, residual=True),
        ]

    run = Compiled(program(variants, *kinds))
    scale = [np.linspace(0.1, 2, 6, dtype=np.float32)] * quantized
    for n in (0, 1, 5):
        x, bias, residual = normal(1, n, 8), normal(2, 6), normal(3, n, 6)
        plain = x.astype(np.float64) @ w.astype(np.float64).T * (scale[0] if quantized else 1)
        wanted = [plain, plain + bias, plain + residual, plain + bias + residual]
        for got, want in zip(run(x, w, *scale, bias, residual), wanted, strict=True):
            assert got.dtype == np.float32
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("table", ["float32", "float16", "bfloat16", "int8"])
def test_embedding(table: str) -> None:
    quantized = table == "int8"
    values = (normal(0, 9, 6) * 30).astype(ml_dtypes.bfloat16 if table == "bfloat16" else table)
    scale = [np.linspace(0.1, 2, 9, dtype=np.float32)] * quantized
    kinds = [((N,), "int32"), ((1, N), "int32"), ((9, 6), table), *[((9,), "float32")] * quantized]
    run = Compiled(program(lambda a, b, *rest: [dialect.embedding(a, *rest), dialect.embedding(b, *rest)], *kinds))
    for ids in (np.array([], np.int32), np.array([8, 0, 3, 3], np.int32)):
        want = values[ids].astype(np.float32) * (scale[0][ids, None] if quantized else 1)
        flat, batch = run(ids, ids[None], values, *scale)
        np.testing.assert_allclose(flat, want, rtol=1e-6)
        np.testing.assert_array_equal(batch, flat[None])


def test_rms_norm() -> None:
    heads = ((N, 3, 8), "float32")
    run = Compiled(
        program(
            lambda x, y, w: [dialect.rms_norm(x, w, epsilon=1e-6), dialect.rms_norm(y, w, epsilon=0.5)],
            ROWS, heads, ((8,), "float32"),
        )
    )  # fmt: skip
    x, y, w = normal(0, 4, 8), normal(1, 4, 3, 8), normal(2, 8)
    x[1] = 0  # only epsilon keeps this row finite
    for got, rows, epsilon in zip(run(x, y, w), (x, y), (1e-6, 0.5), strict=True):
        want = functional.rms_norm(torch.from_numpy(rows), (8,), torch.from_numpy(w), epsilon)
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-5, atol=1e-6)


def rotated(x: Array, cos: Array, sin: Array) -> Array:
    """x [n, heads, d] turned pair by pair, as complex numbers."""
    half = x.shape[-1] // 2
    pairs = x[..., :half] + 1j * x[..., half:]
    turned = pairs * (cos[:, None, :half] + 1j * sin[:, None, :half])
    return np.concatenate([turned.real, turned.imag], axis=-1)


def test_rotary_turns_pairs_by_position_times_frequency() -> None:
    inv_freq = (10000.0 ** -(np.arange(4) / 4)).astype(np.float32)

    def turn(x: Any, positions: Any, frequencies: Any) -> list[Any]:
        builder = relax.BlockBuilder.current()
        angles = builder.emit(dialect.rotary_angles(positions, frequencies, scaling=1.25))
        return [dialect.rotary(x, angles[0], angles[1]), angles[0], angles[1]]

    run = Compiled(program(turn, ((N, 3, 8), "float32"), ((N,), "int32"), ((4,), "float32")))
    positions = np.array([0, 1, 17, 4000], np.int32)
    x = normal(0, 4, 3, 8)
    got, cos, sin = run(x, positions, inv_freq)
    angles = positions[:, None].astype(np.float64) * inv_freq
    np.testing.assert_allclose(cos, 1.25 * np.cos(np.tile(angles, 2)), atol=5e-4)  # 4000 is exact to 2.4e-4 in float32
    np.testing.assert_allclose(sin, 1.25 * np.sin(np.tile(angles, 2)), atol=5e-4)
    np.testing.assert_allclose(got, rotated(x, cos, sin), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(got[0], 1.25 * x[0], rtol=1e-6)


def test_swiglu_in_both_forms() -> None:
    run = Compiled(program(lambda a, b, c: [dialect.swiglu(a, b), dialect.swiglu(c)], ROWS, ROWS, ((N, 16), "float32")))
    gate, up = normal(0, 3, 8) * 20, normal(1, 3, 8)
    want = (functional.silu(torch.from_numpy(gate)) * torch.from_numpy(up)).numpy()
    for got in run(gate, up, np.concatenate([gate, up], axis=1)):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_select_rows() -> None:
    m = tirx.Var("m", "int64")
    both = program(
        lambda x, y, rows: [dialect.select_rows(x, rows), dialect.select_rows(y, rows)], ROWS, BATCH, ((m,), "int32")
    )
    run = Compiled(both)
    x = normal(0, 5, 8)
    for rows in (np.array([], np.int32), np.array([4, 0, 4], np.int32)):
        flat, batch = run(x, x[None], rows)
        np.testing.assert_array_equal(flat, x[rows])
        np.testing.assert_array_equal(batch, x[None, rows])


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 2), (3, 3), (6, 1)])
def test_attention_is_torch_attention_with_grouped_heads(heads: int, kv_heads: int) -> None:
    t = tirx.Var("t", "int64")
    kinds = [((1, size, count, 8), "float32") for size, count in ((N, heads), (t, kv_heads), (t, kv_heads))]
    run = Compiled(program(lambda *x: dialect.attention(*x, scale=0.3), *kinds, ((1, 1, N, t), "float32")))
    n, past = 4, 3
    q, k, v = normal(0, 1, n, heads, 8), normal(1, 1, n + past, kv_heads, 8), normal(2, 1, n + past, kv_heads, 8)
    mask = np.triu(np.full((1, 1, n, n + past), -1e9, np.float32), k=past + 1)
    [got] = run(q, k, v, mask)
    tensors = (torch.from_numpy(x).transpose(1, 2) for x in (q, k, v))
    want = functional.scaled_dot_product_attention(
        *tensors, attn_mask=torch.from_numpy(mask), scale=0.3, enable_gqa=True
    )
    np.testing.assert_allclose(got, want.transpose(1, 2).numpy(), rtol=1e-5, atol=1e-5)


@pytest.fixture(
    scope="module", params=[("float16", "float32"), ("float32", "float32"), ("float16", "bfloat16")], ids="-".join
)
def cached(request: pytest.FixtureRequest) -> tuple[Compiled, str, str]:
    """With the type of its caches, and what it multiplies."""
    dtype, products = request.param
    build = lambda *x: dialect.cached_attention(*x, scale=0.4, products=products)  # noqa: E731
    return Compiled(program(build, *attention_kinds(6, 2, 8, dtype))), dtype, products


@settings(max_examples=15, deadline=None)
@given(data=st.data(), blocks=st.integers(1, 2), slots=st.integers(1, 3))
def test_cached_attention_over_several_slots_and_pages(
    cached: tuple[Compiled, str, str], data: st.DataObject, blocks: int, slots: int
) -> None:
    run, dtype, products = cached
    per_slot = 3
    order = data.draw(st.permutations(range(slots * per_slot + 1)))  # one page belongs to nobody
    pages = np.array(order[:-1], np.int32).reshape(slots, per_slot)
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    shapes = ((len(order), 2, blocks, 8, 16), (len(order), 2, blocks, 16, 8))
    before = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    caches = [tensor(cache) for cache in before]
    oracle = RaggedAttention(pages, blocks, 0.4, dtype, products)
    # A weight that lies between two values of bfloat16 may be rounded the other way.
    close = 1e-4 if products == "float32" else 4e-3
    reached = [0] * slots
    for _ in range(data.draw(st.integers(1, 3))):
        present = [slot for slot in data.draw(st.permutations(range(slots))) if data.draw(st.booleans()) or slot == 0]
        tokens = []
        for slot in present:
            new = data.draw(st.integers(1, 16 * blocks * per_slot // 3))
            tokens += [(slot, reached[slot] + i) for i in range(new)]
            reached[slot] += new
        slots_of, positions = ([one[part] for one in tokens] for part in (0, 1))
        q, k, v = (rng.standard_normal((len(tokens), heads, 8)).astype(np.float32) for heads in (6, 2, 2))
        [got] = run(q, k, v, np.array(positions, np.int32), np.array(slots_of, np.int32), pages, *caches)
        np.testing.assert_allclose(got, oracle.step(q, k, v, positions, slots_of), rtol=close, atol=close / 10)
    for cache, want in zip(caches, oracle.caches(*before), strict=True):
        np.testing.assert_array_equal(cache.numpy(), want)


def test_products_in_bfloat16_show_and_stay_within_the_leeway() -> None:
    kinds = attention_kinds(4, 2, 8, "float16")
    calls = {
        products: dialect.cached_attention(
            *(relax.Var(f"x{i}", relax.TensorType(list(shape), dtype)) for i, (shape, dtype) in enumerate(kinds)),
            scale=0.5,
            products=products,
        )
        for products in ("float32", "bfloat16")
    }
    leeway = dialect.operators()["relax.vamc.cached_attention"].leeway
    assert leeway(calls["float32"]) == 0.0
    results = []
    for products in calls:
        run = Compiled(program(lambda *x, p=products: dialect.cached_attention(*x, scale=0.5, products=p), *kinds))
        new = [normal(0, 30, 4, 8), normal(1, 30, 2, 8), normal(2, 30, 2, 8)]
        step = [np.arange(30, dtype=np.int32), np.zeros(30, np.int32), np.array([[1, 0]], np.int32)]
        caches = [tensor(np.zeros((2, 2, 1, *inner), np.float16)) for inner in ((8, 16), (16, 8))]
        results += run(*new, *step, *caches)
    exact, rounded = results
    error = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
    assert 5e-4 < error < leeway(calls["bfloat16"]) / 2


def test_attention_multiplies_in_nothing_else() -> None:
    x = [relax.Var(f"x{i}", relax.TensorType([1], "float32")) for i in range(8)]
    with pytest.raises(ValueError, match="attention multiplies in float32 or bfloat16, not in int8"):
        dialect.cached_attention(*x, scale=1.0, products="int8")


@pytest.mark.parametrize("norms", [True, False])
def test_qkv_attention_is_norm_then_rotation_then_cached_attention(norms: bool) -> None:
    run = Compiled(qkv_program(norms))
    n, pages = 5, np.array([[1], [0]], np.int32)
    positions, slots = [0, 1, 2, 0, 1], [1, 1, 1, 0, 0]
    qkv, weights = normal(0, n, 64), [normal(1, 8), normal(2, 8)] if norms else []
    angles = np.tile(normal(3, n, 4), 2)
    before = [normal(4, 2, 2, 1, 8, 16), normal(5, 2, 2, 1, 16, 8)]
    caches = [tensor(cache) for cache in before]
    integers = [np.array(x, np.int32) for x in (positions, slots)]
    [got] = run(qkv, *weights, np.cos(angles), np.sin(angles), *integers, pages, *caches)

    q, k, v = (part.reshape(n, -1, 8) for part in np.split(qkv, [32, 48], axis=1))
    if norms:
        q, k = (
            functional.rms_norm(torch.from_numpy(x), (8,), torch.from_numpy(w), 1e-5).numpy()
            for x, w in zip((q, k), weights, strict=True)
        )
    q, k = (rotated(x, np.cos(angles), np.sin(angles)).astype(np.float32) for x in (q, k))
    oracle = RaggedAttention(pages, 1, 0.3, "float32")
    np.testing.assert_allclose(got, oracle.step(q, k, v, positions, slots).reshape(n, 32), rtol=1e-4, atol=1e-5)
    for cache, want in zip(caches, oracle.caches(*before), strict=True):
        np.testing.assert_allclose(cache.numpy(), want, rtol=1e-5, atol=1e-6)


def test_cached_attention_takes_a_batch_of_one() -> None:
    q, k, v, *rest = attention_kinds(4, 2, 8, "float16")
    batch = [((1, *shape), dtype) for shape, dtype in (q, k, v)]
    rows, one = (
        Compiled(program(lambda *x: dialect.cached_attention(*x, scale=0.5), *x, *rest)) for x in ((q, k, v), batch)
    )
    new = [normal(0, 3, 4, 8), normal(1, 3, 2, 8), normal(2, 3, 2, 8)]
    step = [np.arange(3, dtype=np.int32), np.zeros(3, np.int32), np.array([[1]], np.int32)]
    [want] = rows(*new, *step, *(np.zeros((2, 2, 1, *inner), np.float16) for inner in ((8, 16), (16, 8))))
    caches = [tensor(np.zeros((2, 2, 1, *inner), np.float16)) for inner in ((8, 16), (16, 8))]
    [got] = one(*(x[None] for x in new), *step, *caches)
    np.testing.assert_array_equal(got, want[None])
    np.testing.assert_array_equal(caches[1].numpy()[1, :, 0, :3], new[2].astype(np.float16).transpose(1, 0, 2))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_cache_append_gives_the_whole_sequence_and_writes_only_the_new_tokens(dtype: str) -> None:
    run = Compiled(append_program(dtype))
    pages, blocks = np.array([[3, 0, 4], [1, 5, 2]], np.int32), 1
    before = [normal(seed, 6, 2, blocks, *inner).astype(dtype) for seed, inner in ((0, (8, 16)), (1, (16, 8)))]
    caches = [tensor(cache) for cache in before]
    oracle = RaggedAttention(pages, blocks, 1.0, dtype)
    reached = 0
    for new in (18, 1, 21):  # across pages, one token, up to the last position
        k, v = normal(2 * new, 1, 2, new, 8), normal(2 * new + 1, 1, 2, new, 8)
        positions, slots = list(range(reached, reached + new)), [1] * new
        reached += new
        integers = [np.array(x, np.int32) for x in (positions, slots)]
        results = run(k, v, *integers, pages, *caches)
        rows_k, rows_v = (x[0].transpose(1, 0, 2) for x in (k, v))
        oracle.step(rows_k, rows_k, rows_v, positions, slots)
        for part, got in enumerate(results):
            want = np.zeros((1, 2, 40, 8), np.float32)
            want[0, :, :reached] = np.array([oracle.history[1, t][part] for t in range(reached)]).transpose(1, 0, 2)
            np.testing.assert_array_equal(got, want)
    for cache, want in zip(caches, oracle.caches(*before), strict=True):
        np.testing.assert_array_equal(cache.numpy(), want)


def test_causal_mask_lets_a_token_see_the_positions_up_to_its_own() -> None:
    kinds = ("ones", "additive")
    run = Compiled(program(lambda x: [dialect.causal_mask(x, length=6, kind=kind) for kind in kinds], ((N,), "int32")))
    ones, additive = run(np.array([2, 3, 5], np.int32))
    seen = [[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0], [1] * 6]
    np.testing.assert_array_equal(ones, np.array(seen, np.float32)[None, None])
    np.testing.assert_array_equal(additive, np.where(ones == 1, 0, np.finfo(np.float32).min))
