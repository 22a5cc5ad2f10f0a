"""Matrix products of the device model against plain numpy loops, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.vacc_kernels import Array, run_kernel, unaligned

from vamc_py.runstream.program import Work
from vamc_py.schedules.vacc.gemm import CoreGrid, GemmTile, core_grid, gemm

RANDOM = np.random.default_rng(7)


def floats(*shape: int) -> Array:
    return RANDOM.standard_normal(shape, dtype=np.float32)


def integers(*shape: int) -> Array:
    return RANDOM.integers(-128, 128, shape).astype(np.int8)


def panels(b: Array) -> Array:
    """[k, n] -> [n / 16, k, 16]."""
    return np.ascontiguousarray(b.reshape(b.shape[0], -1, 16).transpose(1, 0, 2))


def product(a: Array, b: Array) -> Array:
    """The sum in float32 in ascending k."""
    sums = np.zeros((a.shape[0], b.shape[1]), np.float32)
    for k in range(a.shape[1]):
        sums += a[:, k, None].astype(np.float32) * b[k].astype(np.float32)
    return sums


def grouped(a: Array, b: Array, row_scale: Array, group: int) -> Array:
    """Exact sums of the groups, scaled and added up in float32."""
    total = np.zeros((a.shape[0], b.shape[1]), np.float32)
    for g, first in enumerate(range(0, a.shape[1], group)):
        part = slice(first, first + group)
        sums = a[:, part].astype(np.int64) @ b[part].astype(np.int64)
        total += sums.astype(np.float32) * row_scale[:, g, None]
    return total


def half(x: Array) -> Array:
    return np.clip(x, -65504, 65504).astype(np.float16)


@pytest.mark.parametrize("m", [1, 7, 16, 65])
@pytest.mark.parametrize(("n", "k", "cores"), [(576, 576, 8), (64, 100, 3), (16, 1, 2)])
def test_float16_sums_ascend(m: int, n: int, k: int, cores: int) -> None:
    a, b, c = unaligned(floats(m, k).astype(np.float16)), floats(k, n).astype(np.float16), floats(m, n)
    run_kernel(gemm(m, n, k, dtype="f16", cores=cores), a, unaligned(panels(b)), c)
    np.testing.assert_array_equal(c, product(a, b))


@pytest.mark.parametrize("m", [1, 7, 65])
@pytest.mark.parametrize(("n", "k", "group", "cores"), [(576, 576, 128, 8), (64, 100, 32, 3), (32, 300, 0, 2)])
def test_int8_sums_are_exact(m: int, n: int, k: int, group: int, cores: int) -> None:
    a, b, c = integers(m, k), integers(k, n), floats(m, n)
    row_scale, scale = floats(m, -(-k // (group or k))), floats(n)
    run_kernel(gemm(m, n, k, dtype="i8", group=group, scale=True, cores=cores), a, panels(b), row_scale, scale, c)
    np.testing.assert_array_equal(c, grouped(a, b, row_scale, group or k) * scale)


def test_int32_sums_hold_the_largest_products() -> None:
    k = 18944  # of the largest MLP that is supported
    a, b, c = np.full((2, k), -128, np.int8), np.full((k, 16), -128, np.int8), floats(2, 16)
    run_kernel(gemm(2, 16, k, dtype="i8", cores=1), a, panels(b), np.ones(2, np.float32), c)
    np.testing.assert_array_equal(c, np.full((2, 16), k * 128 * 128, np.float32))


def test_denormal_and_huge_float16() -> None:
    a = np.array([[2.0**-24, 3 * 2.0**-24], [65504, 65504], [1, 65504], [-65504, 65504]], np.float16)
    b = np.array([[2.0**-24] * 16, [65504] * 16], np.float16)
    c, rounded = floats(4, 16), np.zeros((4, 16), np.float16)
    run_kernel(gemm(4, 16, 2, dtype="f16", cores=2), a, panels(b), c)
    np.testing.assert_array_equal(c, product(a, b))
    run_kernel(gemm(4, 16, 2, dtype="f16", out="float16", cores=2), a, panels(b), rounded)
    np.testing.assert_array_equal(rounded, half(c))
    assert rounded.max() == 65504


@given(
    m=st.integers(1, 70),
    blocks=st.integers(1, 7),
    k=st.integers(1, 300),
    cores=st.integers(1, 9),
    flags=st.tuples(*[st.booleans()] * 5),
    tile=st.sampled_from([GemmTile(), GemmTile(16, 32), GemmTile(128, 16)]),
)
@settings(max_examples=12, deadline=None)
def test_every_option(
    m: int, blocks: int, k: int, cores: int, flags: tuple[bool, bool, bool, bool, bool], tile: GemmTile
) -> None:
    n = 16 * blocks
    scale, bias, residual, rows, spread = flags
    a_stride, c_stride = k + 5 * spread, n + 3 * spread
    a, b = floats(m, a_stride).astype(np.float16), floats(k, n).astype(np.float16)
    scales, biases, residuals = floats(n), floats(n), floats(m, c_stride)
    c = np.full((m, c_stride), 7, np.float32)
    kernel = gemm(
        m, n, k, dtype="f16", a_stride=a_stride, c_stride=c_stride, scale=scale, bias=bias, residual=residual,
        b="rows" if rows else "panels", b_stride=n if rows else 0, alpha=0.125, cores=cores, tile=tile,
    )  # fmt: skip
    wanted = np.array(c)
    wanted[:, :n] = product(a[:, :k], b) * (scales if scale else np.float32(1)) * np.float32(0.125)
    wanted[:, :n] += biases if bias else np.float32(0)
    wanted[:, :n] += residuals[:, :n] if residual else np.float32(0)
    optional = [x for x, there in [(scales, scale), (biases, bias), (flat(residuals, n), residual)] if there]
    run_kernel(kernel, flat(a, k), b if rows else panels(b), *optional, flat(c, n))
    np.testing.assert_array_equal(c, wanted)


def flat(x: Array, columns: int) -> Array:
    """All of [rows, stride] up to the last element of the last row; a view."""
    return x.reshape(-1)[: (x.shape[0] - 1) * x.shape[1] + columns]


def test_a_residual_may_be_what_c_holds() -> None:
    a, b, c = floats(7, 40).astype(np.float16), floats(40, 32).astype(np.float16), floats(7, 32)
    wanted = product(a, b) + c
    run_kernel(gemm(7, 32, 40, dtype="f16", residual="in place", cores=2), a, panels(b), c)
    np.testing.assert_array_equal(c, wanted)


def test_blocks_of_rows_lie_side_by_side() -> None:
    """Heads of an attention: row (head, token) of C goes to token's row, head's columns."""
    heads, tokens, dim, k = 3, 5, 16, 20
    a, b = floats(heads * tokens, k).astype(np.float16), floats(k, 24).astype(np.float16)
    c = np.zeros((tokens, heads * dim), np.float16)
    kernel = gemm(
        heads * tokens, dim, k, dtype="f16", b="rows", b_stride=24,
        c_stride=heads * dim, c_block=(tokens, dim), out="float16", cores=2,
    )  # fmt: skip
    run_kernel(kernel, a, flat(b, dim), c)
    wanted = half(product(a, b[:, :dim])).reshape(heads, tokens, dim)
    np.testing.assert_array_equal(c.reshape(tokens, heads, dim), wanted.transpose(1, 0, 2))


def test_the_grid_of_cores_balances_the_tiles() -> None:
    assert core_grid(1, 4096, 8) == CoreGrid(1, 8)
    assert core_grid(1024, 16, 8) == CoreGrid(8, 1)
    assert core_grid(64, 64, 8) == CoreGrid(2, 4)
    assert core_grid(1, 16, 8) == CoreGrid(1, 8)


def work(intrinsic: Any, *sizes: int, count: int = 1) -> Work:
    return Work(intrinsic=intrinsic, sizes=sizes, count=count)


def test_work_of_uneven_parts() -> None:
    # 9 panels over 2 cores: 4 and 5; 65 rows: a tile of 64 and one of 1.
    assert gemm(65, 144, 100, dtype="f16", cores=2).record().work == (
        (work("mma_f16", 64, 64, 100), work("drain", 4096), work("mma_f16", 1, 64, 100), work("drain", 64)),
        (
            work("mma_f16", 64, 64, 100),
            work("drain", 4096),
            work("mma_f16", 64, 16, 100),
            work("drain", 1024),
            work("mma_f16", 1, 64, 100),
            work("drain", 64),
            work("mma_f16", 1, 16, 100),
            work("drain", 16),
        ),
    )


def test_work_of_groups() -> None:
    # 300 columns in groups of 128: two and one of 44. One row of 512 columns is two parts of four tiles.
    part = (
        work("mma_i8", 1, 64, 128, count=8),
        work("drain", 64, count=12),
        work("mma_i8", 1, 64, 44, count=4),
    )
    assert gemm(1, 512, 300, dtype="i8", group=128, cores=2).record().work == (part, part)


def test_cores_without_a_part_have_no_work() -> None:
    assert gemm(1, 16, 8, dtype="f16", cores=3).record().work == (
        (),
        (),
        (work("mma_f16", 1, 16, 8), work("drain", 16)),
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n": 24}, "24 is no multiple"),
        ({"group": 4}, "only int8"),
        ({"a_stride": 3}, "rows of a of 8 elements do not lie 3 apart"),
        ({"c_stride": 3}, "rows of c of 16 elements do not lie 3 apart"),
        ({"b": "rows"}, "rows of b of 16 elements do not lie 0 apart"),
        ({"m": 0}, "nothing in"),
    ],
)
def test_refusals(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        gemm(**{"m": 2, "n": 16, "k": 8, "dtype": "f16", "cores": 1, **options})


def test_a_tile_is_of_whole_blocks() -> None:
    with pytest.raises(ValueError, match="multiples of 16"):
        GemmTile(60, 64)
