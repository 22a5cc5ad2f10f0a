"""The grids of quantized weights: how far a weight may lie from its value, and what zeros and extremes become."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from vamc_py.weights.formats import Values, WeightFormat
from vamc_py.weights.grid import group_scales, round_to_grid
from vamc_py.weights.plan import QuantizeGroups

FORMATS = [
    WeightFormat(values, group, zeros, scale)
    for values in get_args(Values)
    if values != "float8_e4m3fn"
    for group, scale in ((None, "float32"), (32, "float16"))
    for zeros in (False, True)
]
finite = st.floats(-1e4, 1e4, width=32)
rows = arrays.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 33)), elements=finite)


@pytest.mark.parametrize("form", FORMATS, ids=str)
@given(weights=rows)
def test_a_weight_lies_within_half_a_step(form: WeightFormat, weights: Any) -> None:
    """But for int4 without zero points, where the largest of the other sign may be one step further off."""
    scale, zero = group_scales(weights, form)
    values = round_to_grid(weights, scale, zero, form)
    step = np.abs(scale)[:, None].astype(np.float64)
    shift = 0 if zero is None else zero[:, None].astype(np.float64)
    error = np.abs((values - shift) * scale[:, None].astype(np.float64) - weights)
    rounding = 2.0**-11 * 300 if form.scale == "float16" else 1e-5  # of the scale, over up to 255 steps
    most = {("int4", False): 1.0, ("int4", True): 0.5, ("int8", False): 0.5, ("int8", True): 0.5}
    allowed = (most[form.values, form.zeros] + rounding) * step
    small = np.abs(weights).max(axis=1, initial=0.0) < 1e-2  # float16 scales become coarse there
    assert np.all((error <= allowed + 1e-6)[~small])
    assert values.min() >= -(1 << form.bits - 1)
    assert values.max() < 1 << form.bits - 1


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_zeros_stay_zeros(form: WeightFormat) -> None:
    scale, zero = group_scales(np.zeros((2, 8), np.float32), form)
    values = round_to_grid(np.zeros((2, 8), np.float32), scale, zero, form)
    assert np.array_equal(scale, [1, 1])
    assert not np.any(values - (0 if zero is None else zero[:, None]))


def test_four_bits_use_all_values_of_either_sign() -> None:
    form = WeightFormat("int4", 16, scale="float16")
    weights = np.array([[-8, 7, 3.4, 0], [8, -7, 3.6, 0]], np.float32)
    scale, zero = group_scales(weights, form)
    assert zero is None
    assert scale.tolist() == [1, -1]
    assert round_to_grid(weights, scale, None, form).tolist() == [[-8, 7, 3, 0], [-8, 7, -4, 0]]


@pytest.mark.parametrize("form", FORMATS, ids=str)
@given(weights=rows)
def test_the_step_of_the_plan_goes_group_by_group(form: WeightFormat, weights: Any) -> None:
    parts = ("values", "scale", *(["zero"] if form.zeros else []))
    made = [QuantizeGroups(part, form.values, form.group, form.zeros, form.scale).apply(weights) for part in parts]
    assert [one.dtype.name for one in made] == ["int8", form.scale, "int8"][: len(made)]
    assert made[0].shape == weights.shape
    assert made[1].shape == form.scale_shape(*weights.shape)
    width = form.group or weights.shape[1]
    for index, first in enumerate(range(0, weights.shape[1], width)):
        scale, zero = group_scales(weights[:, first : first + width], form)
        assert np.array_equal(made[1].reshape(len(weights), -1)[:, index], scale.astype(form.scale))
        values = round_to_grid(weights[:, first : first + width], scale, zero, form)
        assert np.array_equal(made[0][:, first : first + width], values)


def test_dequantizing_is_what_the_format_says() -> None:
    form = WeightFormat("int4", 2, zeros=True)
    values, zero = np.array([[1, 2, 3]], np.int8), np.array([[1, -2]], np.int8)
    assert form.dequantize(values, np.array([[0.5, 2.0]], np.float32), zero).tolist() == [[0, 0.5, 10]]
    assert WeightFormat("int8").dequantize(values, np.array([3.0], np.float32)).tolist() == [[3, 6, 9]]
