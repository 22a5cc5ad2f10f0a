"""AWQ: input channels with large activations get finer grids, and the ranges of groups are clipped.

Lin, Tang, Tang, Yang, Chen, Wang, Xiao, Dang, Gan, Han: "AWQ: Activation-aware Weight Quantization for LLM Compression
and Acceleration", MLSys 2024, arXiv 2306.00978, section 3.2, and the clipping of the paper's code. Errors of outputs
are measured by the inputs' second moments: for a change D of a weight, the sum over all samples of |D x|² is that of
D ∘ (D Σ x xᵀ), so that no sample is run again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from vamc_py.weights.formats import Floats, WeightFormat
from vamc_py.weights.grid import Integers, group_scales, round_to_grid
from vamc_py.weights.rounded import Rounded, columns_of, round_to_nearest

EXPONENTS = 20
"""Steps of the search: exponents 0, 1/20, ..., 19/20."""
CLIPS = 10
"""Ranges tried for a group: 1, 0.95, ..., 0.55 of the whole one."""
_LEAST_SCALE = 1e-4


def channel_scales(
    weights: Sequence[tuple[torch.Tensor, WeightFormat, torch.Tensor]], magnitude: torch.Tensor
) -> torch.Tensor | None:
    """The factors f32 [K] for the input channels of weights f32 [N, K] that read one input; None: leave them.

    The weights are to be multiplied by them, and what makes the input divided. Among magnitude^exponent, brought around
    1, those whose rounded weights (to nearest) give the least squared error of the outputs. With each weight stands
    the Hessian f32 [K, K] that measures its errors; ``magnitude`` f32 [K] is the mean of |x| of the input.
    """
    best, least = None, float("inf")
    for step in range(EXPONENTS):
        scales = magnitude.pow(step / EXPONENTS).clamp_(min=_LEAST_SCALE)
        scales /= (scales.max() * scales.min()).sqrt()
        error = sum(_scaled_error(weight, form, scales, hessian) for weight, form, hessian in weights)
        if error < least:
            best, least = (scales if step else None), error
    return best


def _scaled_error(weight: torch.Tensor, form: WeightFormat, scales: torch.Tensor, hessian: torch.Tensor) -> float:
    rounded = torch.from_numpy(round_to_nearest((weight * scales).numpy(), form).floats())
    return output_error(rounded.div_(scales).sub_(weight), hessian)


def output_error(change: torch.Tensor, hessian: torch.Tensor) -> float:
    """What a change f32 [N, K] of a weight does to its outputs: twice the mean over the inputs of the squares' sum."""
    return float(torch.sum((change @ hessian).mul_(change), dtype=torch.float64))


def clip(weight: torch.Tensor, hessian: torch.Tensor, form: WeightFormat) -> Rounded:
    """A weight f32 [N, K] rounded to nearest on grids whose ranges are searched.

    For each row and group, the share of the range from its least to its largest weight that gives the least squared
    error of what the group adds to the output; weights beyond it become its ends.
    """
    rows, columns = weight.shape
    groups = form.groups(columns)
    values = np.empty((rows, columns), np.int8)
    scale = np.empty((rows, groups), np.float32)
    zero = np.empty((rows, groups), np.int8) if form.zeros else None
    for g in range(groups):
        at = columns_of(g, columns, form)
        part = weight[:, at].contiguous().numpy()
        values[:, at], scale[:, g], shift = _clip_group(part, hessian[at, at], form)
        if zero is not None and shift is not None:
            zero[:, g] = shift
    return Rounded.of(values, scale, zero, form)


def _clip_group(part: Floats, hessian: torch.Tensor, form: WeightFormat) -> tuple[Integers, Floats, Integers | None]:
    """The best values, scales and zero points of one group's columns f32 [N, columns]."""
    low, high = part.min(axis=1, keepdims=True), part.max(axis=1, keepdims=True)
    least = np.full(len(part), np.inf, np.float32)
    values = np.empty(part.shape, np.int8)
    scale = np.empty(len(part), np.float32)
    zero = np.empty(len(part), np.int8) if form.zeros else None
    whole = WeightFormat(form.values, zeros=form.zeros)
    for step in range(CLIPS):
        share = np.float32(1 - step / EXPONENTS)
        tried_scale, tried_zero = group_scales(np.clip(part, low * share, high * share), form)
        tried = round_to_grid(part, tried_scale, tried_zero, form)
        change = torch.from_numpy(whole.dequantize(tried, tried_scale, tried_zero) - part)
        error = (change @ hessian).mul_(change).sum(dim=1).numpy()
        better = error < least
        least[better], values[better], scale[better] = error[better], tried[better], tried_scale[better]
        if zero is not None and tried_zero is not None:
            zero[better] = tried_zero[better]
    return values, scale, zero
