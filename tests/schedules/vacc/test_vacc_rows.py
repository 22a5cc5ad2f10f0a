"""Row-wise kernels of the vector unit against numpy: norm, SwiGLU, softmax."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.vacc_kernels import Array, run_kernel, ulps
from tvm.script import tirx as T

from vamc_py.runstream.program import Work
from vamc_py.schedules.vacc.intrinsics import vector
from vamc_py.schedules.vacc.kernel import Buffer, define
from vamc_py.schedules.vacc.loops import serial
from vamc_py.schedules.vacc.rms_norm import rms_norm
from vamc_py.schedules.vacc.softmax import softmax
from vamc_py.schedules.vacc.swiglu import swiglu
from vamc_py.schedules.vacc.vector_math import exponential

RANDOM = np.random.default_rng(8)


def floats(*shape: int) -> Array:
    return RANDOM.standard_normal(shape, dtype=np.float32)


def flat(x: Array, columns: int) -> Array:
    return x.reshape(-1)[: (x.shape[0] - 1) * x.shape[1] + columns]


def lane_sum(x: Array) -> Array:
    """The sum of rows in the order of the vector unit: 16 lanes, then halves."""
    padded = np.zeros((x.shape[0], -(-x.shape[1] // 16) * 16), np.float32)
    padded[:, : x.shape[1]] = x
    sums = np.zeros((x.shape[0], 16), np.float32)
    for part in padded.reshape(x.shape[0], -1, 16).swapaxes(0, 1):
        sums += part
    while sums.shape[1] > 1:
        low, high = np.split(sums, 2, axis=1)
        sums = low + high
    return sums


@pytest.mark.parametrize(("rows", "features", "cores"), [(1, 576, 8), (7, 100, 3), (16, 5, 2)])
def test_rms_norm_to_the_bit(rows: int, features: int, cores: int) -> None:
    x, w, y = floats(rows, features + 2), floats(features), floats(rows, features)
    kernel = rms_norm(rows, features, 1e-6, out="float32", x_stride=features + 2, cores=cores)
    run_kernel(kernel, flat(x, features), w, y)
    x = x[:, :features]
    factor = np.float32(1) / np.sqrt(lane_sum(x * x) / np.float32(features) + np.float32(1e-6))
    np.testing.assert_array_equal(y, x * factor * w)
    exact = x / np.sqrt((x.astype(np.float64) ** 2).mean(1, keepdims=True) + 1e-6) * w
    assert ulps(y, exact) < 6


def test_rms_norm_to_float16_saturates() -> None:
    x, w, y = floats(3, 48), np.full(48, 1e6, np.float32), np.zeros((3, 48), np.float16)
    run_kernel(rms_norm(3, 48, 1e-5, out="float16", cores=2), x, w, y)
    assert np.abs(y).max() == 65504


def by_turns(gate: Array, up: Array) -> Array:
    """16 gates and their 16 ups, and so on."""
    halves = [x.reshape(len(x), -1, 16) for x in (gate, up)]
    return np.stack(halves, axis=2).reshape(len(gate), -1)


@given(
    rows=st.integers(1, 9), panels=st.integers(1, 4), pad=st.integers(0, 3), cores=st.integers(1, 5), half=st.booleans()
)
@settings(max_examples=10, deadline=None)
def test_swiglu(rows: int, panels: int, pad: int, cores: int, half: bool) -> None:
    n = 16 * panels
    gate, up = floats(rows, n) * 10, floats(rows, n)
    out = np.full((rows, n + pad), 7, np.float16 if half else np.float32)
    run_kernel(swiglu(rows, n, out_stride=n + pad, out=out.dtype.name, cores=cores), by_turns(gate, up), flat(out, n))
    exact = gate.astype(np.float64)
    exact = exact / (1 + np.exp(-exact)) * up
    assert ulps(out[:, :n], exact) < (0.51 if half else 6)
    assert (out[:-1, n:] == 7).all()


def test_exponential() -> None:
    x = np.linspace(-86, 88, 100_001, dtype=np.float32)
    x[:7] = [-200, -104, -103, -100, 89, np.inf, np.nan]
    y = np.zeros_like(x)

    def emit(_core: Any, x: Any, y: Any) -> None:
        with vector(y.shape[0], 12), serial(y.shape[0], "i") as i:
            T.buffer_store(y, exponential(x[i]), [i])

    buffers = [Buffer("x", "float32", x.size), Buffer("y", "float32", x.size, "write")]
    run_kernel(define("exponential", "vector", buffers, 1, emit), x, y)
    assert ulps(y[7:], np.exp(x[7:].astype(np.float64))) < 2
    np.testing.assert_array_equal(y[:7], [0, 0, 2.0**-149, 27 * 2.0**-149, np.inf, np.inf, np.nan])


def test_silu_at_the_ends() -> None:
    gate = np.array([[-3e38, -1000, -103, -89, -88, 0, 88, 89, 3e38, np.nan, 0, 0, 0, 0, 0, 0]], np.float32)
    y = np.zeros_like(gate)
    run_kernel(swiglu(1, 16, out="float32", cores=1), by_turns(gate, np.ones_like(gate)), y)
    wanted = [0, 0, 0, 0, -88 * np.exp(-88.0), 0, 88, 89, 3e38, np.nan, 0, 0, 0, 0, 0, 0]
    np.testing.assert_allclose(y, [wanted], rtol=1e-6, atol=1e-37)


@given(
    tokens=st.integers(1, 17),
    heads=st.integers(1, 4),
    first=st.integers(0, 40),
    spare=st.integers(0, 30),
    cores=st.integers(1, 9),
)
@settings(max_examples=12, deadline=None)
def test_softmax_is_causal(tokens: int, heads: int, first: int, spare: int, cores: int) -> None:
    rows, columns = heads * tokens, first + tokens + spare
    scores = floats(rows, columns + 1) * 20
    seen = np.arange(columns) <= first + np.arange(rows)[:, None] % tokens
    exact = np.where(seen, scores[:, :columns].astype(np.float64), -np.inf)
    exact = np.exp(exact - exact.max(1, keepdims=True))
    exact /= exact.sum(1, keepdims=True)
    scores[:, :columns][~seen] = np.nan  # memory that nobody wrote
    p = np.full((rows, columns), 7, np.float16)
    kernel = softmax(rows, tokens, columns, stride=columns + 1, cores=cores)
    run_kernel(kernel, flat(scores, columns), p, scalars=(first,))
    assert (p[~seen] == 0).all()
    np.testing.assert_allclose(p, exact, rtol=2.0**-11 + 1e-6, atol=2.0**-25)


def test_a_softmax_of_one_is_one() -> None:
    p = np.zeros((1, 16), np.float16)
    run_kernel(softmax(1, 1, 16, cores=1), np.full((1, 16), -3e38, np.float32), p, scalars=(0,))
    np.testing.assert_array_equal(p, [[1] + [0] * 15])


def test_work() -> None:
    def work(elements: int, instructions: int) -> tuple[Work, ...]:
        return (Work(intrinsic="vector", sizes=(elements, instructions), count=1),)

    assert rms_norm(5, 100, 1e-6, out="float16", cores=2).record().work == (work(200, 5), work(300, 5))
    assert swiglu(3, 16, out="float32", cores=1).record().work == (work(48, 19),)
    assert softmax(3, 1, 20, cores=3).record().work == (work(20, 17),) * 3


def test_refusals() -> None:
    with pytest.raises(ValueError, match="do not lie 9 apart"):
        rms_norm(2, 10, 1e-6, out="float32", x_stride=9, cores=1)
    with pytest.raises(ValueError, match="do not lie 9 apart"):
        swiglu(2, 16, out_stride=9, out="float32", cores=1)
    with pytest.raises(ValueError, match="do not lie 9 apart"):
        softmax(2, 1, 10, stride=9, cores=1)
