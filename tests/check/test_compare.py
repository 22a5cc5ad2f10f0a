"""Errors between results."""

from __future__ import annotations

import numpy as np
import pytest

from vamc_py.check.compare import difference, relative_error, same_elements


def test_relative_error_is_of_the_norms() -> None:
    assert relative_error(np.array([3.0, 0.0]), np.array([0.0, 4.0])) == 5 / 4
    assert relative_error(np.array([[1.0, 2.0]]), np.array([1.0, 2.0])) == 0
    assert relative_error(np.array([1e-9]), np.zeros(1)) == float("inf")
    assert relative_error(np.zeros(2), np.zeros(2)) == 0


def test_values_that_are_not_finite() -> None:
    holes = np.array([1.0, np.inf, -np.inf, np.nan])
    assert relative_error(holes, holes) == 0
    assert relative_error(np.array([2.0, np.inf, -np.inf, np.nan]), holes) == 1
    for other in ([1.0, 5.0, -np.inf, np.nan], [1.0, np.inf, -np.inf, 0.0], [np.nan, np.inf, -np.inf, np.nan]):
        assert relative_error(np.array(other), holes) == float("inf")


def test_masked_scores_do_not_hide_the_others() -> None:
    mask = np.full((4, 4), np.finfo(np.float32).min, np.float32)
    assert relative_error(mask, mask) == 0
    assert same_elements(mask, mask, 1e-6)
    scores, others = np.triu(mask, 1) + np.float32(2), np.triu(mask, 1) + np.float32(3)
    assert relative_error(others, scores) == 0.5
    assert relative_error(scores.T, scores) == float("inf")


def test_same_elements_in_another_layout() -> None:
    x = np.random.default_rng(0).standard_normal((1, 3, 4, 5))
    for other in (x[0], x.reshape(12, 5), x.transpose(0, 2, 1, 3), x.transpose(0, 3, 1, 2)):
        assert same_elements(other, x, 1e-6)
    assert not same_elements(x[:, ::-1], x, 1e-6)
    assert not same_elements(x * 1.01, x, 1e-3)


def test_difference_of_common_rows() -> None:
    reference = {(0, i): np.array([float(i), 1.0]) for i in range(3)}
    ours = {(0, 0): np.array([0.0, 1.0]), (0, 2): np.array([0.0, 1.0]), (1, 0): np.array([9.0, 9.0])}
    found = difference(ours, reference)
    assert (found.largest, found.agreeing, found.tokens) == (2.0, 1, 2)
    assert found.relative == pytest.approx(2 / np.sqrt(6))
    with pytest.raises(ValueError, match="no token in common"):
        difference({(1, 0): np.ones(2)}, reference)
