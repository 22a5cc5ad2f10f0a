"""Rows to int8, and weights in panels to float16, against numpy, bit for bit."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.vacc_kernels import Array, run_kernel

from vamc_py.runstream.program import Work
from vamc_py.schedules.vacc.layout import PackVaccInt4Panels, PackVaccPanels, PadVaccRows, panels_shape, unpack_panels
from vamc_py.schedules.vacc.quantization import dequantize, dequantize_groups, quantize_rows
from vamc_py.weights.formats import WeightFormat

RANDOM = np.random.default_rng(9)


def floats(*shape: int) -> Array:
    return RANDOM.standard_normal(shape, dtype=np.float32)


def half(x: Array) -> Array:
    return np.clip(x, -65504, 65504).astype(np.float16)


@pytest.mark.parametrize(
    ("rows", "k", "group", "cores"), [(1, 576, 128, 8), (7, 100, 32, 3), (16, 300, 0, 5), (3, 20, 64, 1)]
)
def test_quantize_rows(rows: int, k: int, group: int, cores: int) -> None:
    x = floats(rows, k)
    x[0, : group or k] = 0
    size = min(group or k, k)
    q, scale = np.zeros((rows, k), np.int8), np.zeros((rows, -(-k // size)), np.float32)
    run_kernel(quantize_rows(rows, k, group=group, cores=cores), x, q, scale)
    for g, first in enumerate(range(0, k, size)):
        part = x[:, first : first + size]
        wanted = np.abs(part).max(1) / np.float32(127)
        np.testing.assert_array_equal(scale[:, g], wanted)
        with np.errstate(invalid="ignore"):
            values = np.where(wanted[:, None] == 0, 0, np.rint(part / wanted[:, None]))
        np.testing.assert_array_equal(q[:, first : first + size], values)
    assert np.abs(q[-1]).max() == (127 if rows > 1 or group else 0)


def test_quantize_rows_rounds_half_to_even() -> None:
    x = np.array([[0.5, 1.5, 2.5, -0.5, -1.5, 126.5, -126.5, 127]], np.float32)
    q, scale = np.zeros((1, 8), np.int8), np.zeros(1, np.float32)
    run_kernel(quantize_rows(1, 8, cores=1), x, q, scale)
    np.testing.assert_array_equal(q, [[0, 2, 2, 0, -2, 126, -126, 127]])
    assert scale == 1


def test_tiny_rows_stay_within_eight_bits() -> None:
    x = (np.arange(-60, 61, dtype=np.float32) * np.float32(1e-44)).reshape(1, -1)
    q, scale = np.zeros(x.shape, np.int8), np.zeros(1, np.float32)
    run_kernel(quantize_rows(1, x.size, cores=1), x, q, scale)
    assert q.min() >= -127
    assert (np.sign(q[0, q[0] != 0]) == np.sign(x[0, q[0] != 0])).all()


def test_dequantize_is_exact() -> None:
    for values, stored in [("int8", np.int8), ("float8_e4m3fn", ml_dtypes.float8_e4m3fn)]:
        w = np.arange(256).astype(np.uint8).view(stored)
        w = w[np.isfinite(w.astype(np.float32))]
        out = np.zeros(w.size, np.float16)
        kernel = dequantize(w.size, values=values, cores=3)  # type: ignore[arg-type]
        run_kernel(kernel, w if values == "int8" else w.view(np.uint8), out)
        np.testing.assert_array_equal(out.view(np.uint16), w.astype(np.float16).view(np.uint16))


@given(
    blocks=st.integers(1, 4),
    k=st.integers(1, 70),
    group=st.sampled_from([0, 3, 16, 64]),
    values=st.sampled_from(["int8", "int4", "float8_e4m3fn"]),
    zeros=st.booleans(),
    scale=st.sampled_from(["float32", "float16"]),
    cores=st.integers(1, 5),
)
@settings(max_examples=15, deadline=None)
def test_dequantize_groups(blocks: int, k: int, group: int, values: Any, zeros: bool, scale: Any, cores: int) -> None:
    n, rows = 16 * blocks, 16 * blocks - 3
    zeros = zeros and values != "float8_e4m3fn"
    form = WeightFormat(values, group or None, zeros, scale)
    low, high = (-8, 8) if values == "int4" else (-128, 128)
    w = RANDOM.integers(low, high, (rows, k)).astype(np.int8)
    if values == "float8_e4m3fn":
        w = w.astype(ml_dtypes.float8_e4m3fn)
    groups = form.groups(k)
    scales = (floats(rows, groups) * 300).astype(scale)
    zero = RANDOM.integers(low, high, (rows, groups)).astype(np.int8) if zeros else None
    packed = (PackVaccInt4Panels() if values == "int4" else PackVaccPanels()).apply(w)
    assert packed.shape == panels_shape(rows, k, values == "int4")
    parts = [PackVaccPanels().apply(part) for part in (scales, zero) if part is not None]
    out = np.zeros((blocks, k, 16), np.float16)
    kernel = dequantize_groups(n, k, values=values, group=group, zeros=zeros, scale=scale, cores=cores)
    run_kernel(kernel, packed, *parts, out)
    exact = form.dequantize(w, scales.reshape(form.scale_shape(rows, k)), zero)
    np.testing.assert_array_equal(unpack_panels(out, rows), half(exact))
    assert (out[-1, :, 13:] == 0).all()


def test_panels() -> None:
    w = floats(20, 5)
    packed = PackVaccPanels().apply(w)
    assert packed.shape == (2, 5, 16)
    assert packed[1, 4, 3] == w[19, 4]
    assert (packed[1, :, 4:] == 0).all()
    np.testing.assert_array_equal(unpack_panels(packed, 20), w)
    np.testing.assert_array_equal(PackVaccPanels().apply(w[:16]), packed[:1])  # panels one by one
    padded = PadVaccRows().apply(w[:, 0])
    np.testing.assert_array_equal(padded, [*w[:, 0], *[0] * 12])
    np.testing.assert_array_equal(PackVaccPanels().apply(w[:, 0]), padded.reshape(2, 1, 16))
    with pytest.raises(ValueError, match="from -8 to 7, not -8 to 8"):
        PackVaccInt4Panels().apply(np.array([[-8, 8]], np.int8))


def test_work() -> None:
    def work(elements: int, instructions: int) -> tuple[Work, ...]:
        return (Work(intrinsic="vector", sizes=(elements, instructions), count=1),)

    assert quantize_rows(3, 100, group=32, cores=2).record().work == (work(100, 9), work(200, 9))
    assert dequantize(100, cores=1).record().work == (work(100, 1),)
    kernel = dequantize_groups(48, 10, values="int4", group=4, zeros=True, cores=2)
    assert kernel.record().work == (work(160, 5), work(320, 5))


def test_refusals() -> None:
    with pytest.raises(ValueError, match="24 is no multiple"):
        dequantize_groups(24, 8, values="int8", cores=1)
    with pytest.raises(ValueError, match="no zero points"):
        dequantize_groups(16, 8, values="float8_e4m3fn", zeros=True, cores=1)
    with pytest.raises(ValueError, match="do not lie 7 apart"):
        quantize_rows(2, 8, x_stride=7, cores=1)
