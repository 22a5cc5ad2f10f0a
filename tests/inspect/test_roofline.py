"""Kernels against limits that are given."""

from __future__ import annotations

import pytest
import tvm
from tvm import relax, tirx

from vamc_py.inspect.calls import Argument, Call
from vamc_py.inspect.costs import cost
from vamc_py.inspect.report_model import MachineLimits
from vamc_py.inspect.roofline import decode_size, prefill_size, roofline
from vamc_py.pipeline.program import ACTIVATION_ATTRIBUTE, WIDE_ROWS_ATTRIBUTE

N, M = tirx.Var("n", "int64"), tirx.Var("m", "int64")
LIMITS = MachineLimits(machine="a machine", bandwidth=1e10, int8_peak=1e12, float_peak=1e11, bf16_peak=5e11)


def linear(name: str, weights: str, activation: str | None = None, rows: tirx.Var = N) -> Call:
    packed = relax.TensorType([64, 1024, 4, 16, 4] if weights == "uint8" else [64, 4096, 64], weights)
    kinds = (relax.TensorType([rows, 4096], "float32"), packed)
    arguments = tuple(Argument("input", f"{name}{index}", kind) for index, kind in enumerate(kinds))
    attributes = {ACTIVATION_ATTRIBUTE: activation, WIDE_ROWS_ATTRIBUTE: 24} if activation else {}
    function = tirx.PrimFunc([], tirx.Evaluate(0), attrs=tvm.ir.make_node("ir.DictAttrs", **attributes))
    return Call(None, name, f"linear_{weights}", "linear", True, function, arguments, (kinds[0],))


CALLS = (linear("first", "uint8"), linear("second", "float16"), linear("third", "uint8"))


def test_calls_of_a_kernel_are_summed() -> None:
    size = decode_size(4096)
    made = roofline(CALLS, size, LIMITS, {"linear_uint8": 0.25})
    assert made.title == "decode: 1 token after 1024"
    integers, floats = made.points
    one = cost(CALLS[0], size)
    assert (integers.kernel, integers.kind, integers.calls) == ("linear_uint8", "linear", 2)
    assert (integers.bytes, integers.operations) == (2 * one.bytes, 2 * one.operations)
    assert (integers.measured_seconds, floats.measured_seconds) == (0.25, None)


def test_decoding_is_bound_by_memory() -> None:
    for point in roofline(CALLS, decode_size(4096), LIMITS, {}).points:
        assert point.bound == "memory"
        assert point.least_seconds == pytest.approx(point.bytes / 1e10)


def test_prefill_is_bound_by_the_peak_of_the_weights_type() -> None:
    made = roofline(CALLS, prefill_size(2048, 4096), LIMITS, {})
    assert made.title == "prefill: 2048 tokens"
    integers, floats = made.points
    assert (integers.bound, floats.bound) == ("arithmetic", "arithmetic")
    assert integers.least_seconds == pytest.approx(integers.operations / 1e12)
    assert floats.least_seconds == pytest.approx(floats.operations / 1e11)


@pytest.mark.parametrize(
    ("activation", "tokens", "peak"), [("bf16", 25, 5e11), ("bf16", 24, 1e12), ("int8_g64", 25, 1e12), (None, 25, 1e12)]
)
def test_bfloat16_products_are_bound_by_their_own_peak(activation: str | None, tokens: int, peak: float) -> None:
    limits = LIMITS.model_copy(update={"bandwidth": 1e15})
    point = roofline([linear("one", "uint8", activation)], prefill_size(tokens, 4096), limits, {}).points[0]
    assert point.bound == "arithmetic"
    assert point.least_seconds == pytest.approx(point.operations / peak)


def test_calls_of_a_kernel_have_the_peaks_of_their_own_rows() -> None:
    """Behind the last attention a prompt has one row, and that is multiplied in two int8 digits."""
    limits = LIMITS.model_copy(update={"bandwidth": 1e15})
    everywhere, last = linear("layer", "uint8", "bf16"), linear("last", "uint8", "bf16", M)
    size = prefill_size(512, 4096)
    [point] = roofline([everywhere, last], size, limits, {}).points
    expected = cost(everywhere, size).operations / 5e11 + cost(last, size).operations / 1e12
    assert point.least_seconds == pytest.approx(expected)


@pytest.mark.parametrize(("context", "start"), [(1, 0), (128, 64), (4096, 1024)])
def test_decode_starts_in_a_context_that_fits(context: int, start: int) -> None:
    size = decode_size(context)
    assert (size.tokens, size.start) == (1, start)
    assert size.longest <= context


def test_a_prefill_is_no_longer_than_the_context() -> None:
    assert prefill_size(512, 128).tokens == 128
