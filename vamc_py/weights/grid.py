"""The grids that weights are rounded to: the scale and zero point that a group of columns gets, and the rounding."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vamc_py.weights.formats import Floats, WeightFormat

Integers = NDArray[np.int8]

INT8_LARGEST = 127  # -128 is not used, so that the range is symmetric
_TINY = np.finfo(np.float32).tiny
_HALF_TINY = np.finfo(np.float16).smallest_subnormal


def group_scales(weights: Floats, form: WeightFormat) -> tuple[Floats, Integers | None]:
    """Scale and zero point (None without zero points) of each row of `weights` f32 [N, columns of one group], finite.

    With zero points the grid reaches from the least to the largest weight, 0 included. Without, of int8
    scale = max|w| / 127; of int4 the weight of the largest magnitude becomes -8, whatever its sign (so the scale may be
    negative): all 16 values are used, as llama.cpp's Q4_0 does. The scale is rounded to ``form.scale`` here, before any
    weight is rounded by it, but comes as float32. A group of zeros, or of numbers too small for a scale, has the
    scale 1 and no values but zeros.
    """
    levels = 1 << form.bits
    low = np.minimum(weights.min(axis=1, initial=0.0), np.float32(0))
    high = np.maximum(weights.max(axis=1, initial=0.0), np.float32(0))
    if form.zeros:
        scale = _stored((high - low) / np.float32(levels - 1), form)
        zero = np.clip(np.rint(-low / scale), 0, levels - 1) - levels // 2
        return scale, zero.astype(np.int8)
    if form.bits == 8:
        return _stored(np.maximum(high, -low) / np.float32(INT8_LARGEST), form), None
    return _stored(np.where(-low >= high, low, high) / np.float32(-levels // 2), form), None


def round_to_grid(weights: Floats, scale: Floats, zero: Integers | None, form: WeightFormat) -> Integers:
    """The values int8 of `weights` f32 [N, columns of one group], for each row's scale and zero point; half to even."""
    most = (1 << form.bits - 1) - 1
    least = -INT8_LARGEST if form.bits == 8 and zero is None else -most - 1
    shift = np.float32(0) if zero is None else zero.astype(np.float32)[:, None]
    values: Integers = np.clip(np.rint(weights / scale[:, None]) + shift, least, most).astype(np.int8)
    return values


def _stored(scale: Floats, form: WeightFormat) -> Floats:
    """The scales as they will be stored; 1 where they would be 0, or too small for the weights to be within the range.

    No float32 scale is below the smallest normal number: a subnormal one is too coarse to keep the integers in range.
    """
    rounded: Floats = scale.astype(form.scale).astype(np.float32)
    if form.scale == "float32":
        return np.where(scale == 0, np.float32(1), np.where(np.abs(rounded) < _TINY, _TINY, rounded))
    return np.where(np.abs(rounded) < _HALF_TINY, np.float32(1), rounded)
