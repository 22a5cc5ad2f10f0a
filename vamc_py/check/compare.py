"""How far two results lie apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from vamc_py.check.scenario import Row
from vamc_py.check.values import Array

_MASKED = 1e30


@dataclass(frozen=True)
class Difference:
    """Between logits of the same tokens."""

    largest: float  # |a - b| of one logit
    relative: float  # |a - b| / |b|, Frobenius norms
    agreeing: int  # tokens with the same largest logit
    tokens: int


def difference(logits: Mapping[Row, Array], reference: Mapping[Row, Array]) -> Difference:
    """Between the logits of those tokens that both have; ValueError where there are none."""
    rows = [row for row in logits if row in reference]
    if not rows:
        raise ValueError("the two results have no token in common")
    ours, wanted = (np.stack([result[row] for row in rows]).astype(np.float64) for result in (logits, reference))
    agreeing = int((ours.argmax(axis=1) == wanted.argmax(axis=1)).sum())
    with np.errstate(invalid="ignore"):
        largest = float(np.abs(ours - wanted).max())
    return Difference(largest, relative_error(ours, wanted), agreeing, len(rows))


def relative_error(value: Array, reference: Array) -> float:
    """|value - reference| / |reference| in Frobenius norms, over the elements in their order.

    Elements that are masked, infinite or no number count as equal to their like, and otherwise make the error infinite;
    so does a reference of zeros where the value is something else.
    """
    ours, wanted = (_masks_infinite(array) for array in (value, reference))
    counted = np.isfinite(wanted)
    if not np.array_equal(ours[~counted], wanted[~counted], equal_nan=True) or not np.isfinite(ours[counted]).all():
        return float("inf")
    apart = float(np.linalg.norm(ours[counted] - wanted[counted]))
    size = float(np.linalg.norm(wanted[counted]))
    if apart == 0.0:
        return 0.0
    return apart / size if size else float("inf")


def _masks_infinite(array: Array) -> Array:
    """f64, flat. A masked score is about -3.4e38; beside it all other scores would vanish from the norm."""
    flat = np.asarray(array, np.float64).reshape(-1)
    return np.where(np.abs(flat) > _MASKED, np.copysign(np.inf, flat), flat)


def same_elements(value: Array, reference: Array, tolerance: float) -> bool:
    """Whether the values are the same within the tolerance, be it in another shape or with transposed axes."""
    size, ours = (float(np.linalg.norm(array.astype(np.float64))) for array in (reference, value))
    if not abs(ours - size) <= tolerance * size:
        return False
    if relative_error(value, reference) <= tolerance:
        return True
    value, reference = np.squeeze(value), np.squeeze(reference)
    return any(
        relative_error(value, np.transpose(reference, axes)) <= tolerance
        for axes in permutations(range(reference.ndim))
        if value.shape == tuple(reference.shape[axis] for axis in axes)
    )
