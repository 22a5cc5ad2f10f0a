"""The parameter plan and its steps."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from vamc_py.weights.grid import INT8_LARGEST
from vamc_py.weights.plan import (
    Array,
    Cast,
    MeanRotated,
    ParameterPlan,
    QuantizeRows,
    Recipe,
    Rows,
    SelectColumns,
    numpy_dtype,
)

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
MATRICES = arrays.arrays(np.float32, arrays.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=FINITE)
TINY = float(np.finfo(np.float32).tiny)


def quantized(weights: Array) -> tuple[Any, Any]:
    return QuantizeRows("values").apply(weights), QuantizeRows("scale").apply(weights)


@settings(deadline=None)
@given(weights=MATRICES)
def test_quantization_is_within_half_a_step(weights: Any) -> None:
    values, scale = quantized(weights)
    assert values.dtype == np.int8
    assert values.shape == weights.shape
    assert scale.dtype == np.float32
    assert scale.shape == weights.shape[:1]
    assert np.isfinite(scale).all()
    assert (scale > 0).all()
    assert np.abs(values.astype(np.int64)).max() <= INT8_LARGEST
    # Exact in float64; the quotient was rounded in float32, which may tip a tie either way.
    error = np.abs(weights.astype(np.float64) - values.astype(np.float64) * scale.astype(np.float64)[:, None])
    assert (error <= scale[:, None].astype(np.float64) * (0.5 + 2e-5)).all()


@settings(deadline=None)
@given(weights=MATRICES)
def test_the_scale_is_the_largest_over_127(weights: Any) -> None:
    values, scale = quantized(weights)
    largest = np.abs(weights).max(axis=1)
    ordinary = largest / np.float32(127) >= TINY
    np.testing.assert_array_equal(scale[ordinary], largest[ordinary] / np.float32(127))
    # The largest element of a row uses the whole range.
    assert (np.abs(values[ordinary].astype(int)).max(axis=1) == INT8_LARGEST).all()


def test_a_row_of_zeros_stays_zero_with_scale_one() -> None:
    values, scale = quantized(np.array([[0, 0, -0.0], [127, -254, 0]], np.float32))
    np.testing.assert_array_equal(scale, [1, 2])
    np.testing.assert_array_equal(values, [[0, 0, 0], [64, -127, 0]])  # 63.5 to even


def test_subnormal_rows_do_not_leave_the_range() -> None:
    values, scale = quantized(np.array([[2.7e-43, -1e-45], [TINY, TINY / 3]], np.float32))
    assert (scale >= np.float32(TINY)).all()
    np.testing.assert_array_equal(values, [[0, 0], [1, 0]])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_sixteen_bit_weights_are_quantized_as_their_float32_values(dtype: Any) -> None:
    weights = np.random.default_rng(0).standard_normal((5, 7)).astype(dtype)
    for got, want in zip(quantized(weights), quantized(weights.astype(np.float32)), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16", "int8"])
def test_element_types_by_name(name: str) -> None:
    assert numpy_dtype(name).name == name


def test_a_cast_rounds_to_nearest_even_and_copies_only_where_it_must() -> None:
    block = np.array([1 + 2**-11, 1 + 3 * 2**-11, 70000, -3], np.float32)
    np.testing.assert_array_equal(Cast("float16").apply(block), np.array([1, 1 + 2**-9, np.inf, -3], np.float16))
    np.testing.assert_array_equal(
        Cast("bfloat16").apply(np.array([1 + 2**-8, 1 + 3 * 2**-8], np.float32)).astype(np.float32), [1, 1 + 2**-6]
    )
    assert Cast("float32").apply(block) is block


def test_a_plan_is_changed_by_copies() -> None:
    plan = ParameterPlan({"a": Recipe(("x",)), "b": Recipe(("y", "z"), (Cast("float32"),))})
    more = plan.with_recipes({"c": Recipe(("w",)), "a": plan["a"].then(Cast("float16"))})
    assert list(more) == ["a", "b", "c"]
    assert more["a"].steps == (Cast("float16"),)
    assert plan["a"].steps == ()
    assert list(more.only(["c", "b"])) == ["c", "b"]
    assert plan["b"].then(QuantizeRows("scale"), Cast("float16")).steps == (
        Cast("float32"), QuantizeRows("scale"), Cast("float16"),
    )  # fmt: skip
    with pytest.raises(KeyError):
        plan.only(["c"])


def test_chosen_rows_of_a_tensor_in_memory() -> None:
    block = np.arange(12, dtype=np.int8).reshape(6, 2)
    recipe = Recipe(("x",)).choosing(Rows(4, 6), Rows(0, 0, 1), Rows(4, 5))
    np.testing.assert_array_equal(recipe.chosen(block)[:, 0], [8, 10, 0, 8])
    assert recipe.chosen(block).dtype == np.int8
    assert Recipe(("x",)).chosen(block) is block


def test_rows_are_counted_in_larger_ones() -> None:
    assert Rows(1, 3, 2).times(4).behind(10) == Rows(14, 22, 8)
    assert len(Rows(1, 3, 2)) == 4


@pytest.mark.parametrize("numbers", [(-1, 0), (2, 1), (0, 1, -1)])
def test_what_are_no_rows(numbers: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="are no rows"):
        Rows(*numbers)


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_rows_are_chosen_among_the_chosen(data: st.DataObject) -> None:
    def some(count: int) -> tuple[Rows, ...]:
        ends = st.tuples(st.integers(0, count), st.integers(0, count)).map(sorted)
        one = st.builds(lambda pair, zeros: Rows(*pair, zeros), ends, st.integers(0, 3))
        return tuple(data.draw(st.lists(one, min_size=1, max_size=4)))

    block = np.arange(1, 10)
    first = Recipe(("x",)).choosing(*some(9))
    chosen = first.chosen(block)
    again = some(len(chosen))
    expected = Recipe(("x",)).choosing(*again).chosen(chosen)
    np.testing.assert_array_equal(first.choosing(*again).chosen(block), expected)


def test_rows_that_are_chosen_keep_together_what_belongs_together() -> None:
    heads = Recipe(("b",), (MeanRotated((1.0, 0.5), 1.0, 8),))
    assert heads.choosing(Rows(4, 8, 4)).rows == (Rows(4, 8, 4),)
    for part in (Rows(2, 4), Rows(0, 5), Rows(0, 4, 1)):
        with pytest.raises(ValueError, match="keep 4 rows together"):
            heads.choosing(part)


def test_columns() -> None:
    block = np.arange(6, dtype=np.float16).reshape(2, 3)
    np.testing.assert_array_equal(SelectColumns(1, 3).apply(block), [[1, 2], [4, 5]])
    padded = SelectColumns(2, 2, 2).apply(block)
    np.testing.assert_array_equal(padded, np.zeros((2, 2)))
    assert padded.dtype == np.float16
    for step, wrong in ((SelectColumns(1, 4), block), (SelectColumns(0, 1), block[0])):
        with pytest.raises(ValueError, match=r"has no columns"):
            step.apply(wrong)
