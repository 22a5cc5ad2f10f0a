"""Elementwise kernels of the device model against numpy, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from support.vacc_kernels import run_kernel, unaligned

from vamc_py.runstream.program import Work
from vamc_py.schedules.vacc.elementwise import add, add_f16, cast_f16, embed_rows

RANDOM = np.random.default_rng(6)
SIZES = [(1, 1), (100, 3), (1000, 8), (16, 4)]


def floats(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize(("elements", "cores"), SIZES)
def test_add(elements: int, cores: int) -> None:
    x, y, out = unaligned(floats(elements)), floats(elements), unaligned(floats(elements))
    run_kernel(add(elements, cores=cores), x, y, out)
    np.testing.assert_array_equal(out, x + y)


@pytest.mark.parametrize(("elements", "cores"), SIZES)
def test_add_f16(elements: int, cores: int) -> None:
    x, y, out = floats(elements).astype(np.float16), floats(elements), floats(elements)
    run_kernel(add_f16(elements, cores=cores), x, y, out)
    np.testing.assert_array_equal(out, x.astype(np.float32) + y)


def test_every_float16_comes_through_unchanged() -> None:
    x = np.arange(1 << 16).astype(np.uint16).view(np.float16)
    x = x[np.isfinite(x)]
    wide, back = np.zeros(x.size, np.float32), np.zeros(x.size, np.float16)
    run_kernel(add_f16(x.size, cores=3), x, np.full(x.size, -0.0, np.float32), wide)
    np.testing.assert_array_equal(wide.view(np.uint32), x.astype(np.float32).view(np.uint32))
    run_kernel(cast_f16(x.size, cores=3), wide, back)
    np.testing.assert_array_equal(back.view(np.uint16), x.view(np.uint16))


def test_a_cast_rounds_half_to_even_and_saturates() -> None:
    ties = (np.arange(0x0400, 0x7BFF).astype(np.uint16).view(np.float16).astype(np.float32)[:, None]) * (1 + 2.0**-11)
    small = np.arange(1, 4000, dtype=np.float32) * np.float32(2.0**-26)  # denormal ones and their ties
    huge = np.array([65504, 65519, 65520, 7e4, 3e38, np.inf], np.float32)
    x = np.concatenate([ties.reshape(-1).astype(np.float32), small, huge, floats(999)])
    x = np.concatenate([x, -x, [np.float32(np.nan)]])
    y = np.zeros(x.size, np.float16)
    run_kernel(cast_f16(x.size, cores=2), x, y)
    np.testing.assert_array_equal(y, np.clip(x, -65504, 65504).astype(np.float16))


@pytest.mark.parametrize("dtype", ["int8", "float16", "float32"])
@pytest.mark.parametrize(("rows", "features", "cores"), [(1, 576, 8), (7, 100, 3)])
def test_embed_rows(rows: int, features: int, cores: int, dtype: str) -> None:
    x = RANDOM.integers(-128, 128, (rows, features)).astype(dtype)
    scale, out = floats(rows), floats(rows, features)
    run_kernel(embed_rows(rows, features, dtype, scale=True, cores=cores), x, scale, out)
    np.testing.assert_array_equal(out, x.astype(np.float32) * scale[:, None])
    run_kernel(embed_rows(rows, features, dtype, cores=cores), x, out)
    np.testing.assert_array_equal(out, x.astype(np.float32))


def test_work() -> None:
    assert add(100, cores=3).record().work == tuple(  # 7 vectors of 16, the last with 4 elements
        (Work(intrinsic="vector", sizes=sizes, count=1),) for sizes in [(32, 1), (32, 1), (36, 1)]
    )
    assert embed_rows(1, 576, "int8", scale=True, cores=2).record().work == (
        (),
        (Work(intrinsic="vector", sizes=(576, 2), count=1),),
    )
