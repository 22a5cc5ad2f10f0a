"""GPTQ: columns are rounded one after the other, and the columns to come make up for each one's error.

Frantar, Ashkboos, Hoefler, Alistarh: "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", ICLR 2023, arXiv 2210.17323, algorithm 1. For a linear layer with the Hessian H of its squared output
error, rounding column k of the weight changes the columns behind it by -err ⊗ U[k, k+1:] / U[k, k], where U is the
upper Cholesky factor of the inverse of H: its row k is the k-th row of the inverse of H without the columns before k.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from vamc_py.weights.formats import Floats, WeightFormat
from vamc_py.weights.grid import Integers, group_scales, round_to_grid
from vamc_py.weights.rounded import Rounded, columns_of, grids


class HessianError(ValueError):
    """A Hessian that float32 cannot factor: too little damping, or inputs that are not finite."""


@dataclass(frozen=True)
class Inverse:
    """The factor of the inverse of a damped Hessian, shared by all weights that read the same input."""

    upper: torch.Tensor  # f32 [K, K], columns in the order of quantization
    order: torch.Tensor | None  # i64 [K], the column quantized at each step; None: as they stand


def invert(hessian: torch.Tensor, damp_percent: float, *, desc_act: bool) -> Inverse:
    """The factor for a Hessian f32 [K, K], whose memory is used up.

    ``damp_percent`` of the mean diagonal is added to the diagonal. A column whose input is always 0 gets the mean: it
    is then rounded to nearest, where the paper's code makes its weights 0. With ``desc_act`` the columns with the
    largest inputs come first. HessianError where there is no factor.
    """
    diagonal = hessian.diagonal()
    mean = float(diagonal.mean())
    if not np.isfinite(mean):
        raise HessianError("the Hessian is not finite")
    mean = mean or 1.0  # no input at all: nothing to make up for
    order = torch.argsort(diagonal, descending=True, stable=True) if desc_act else None
    diagonal[diagonal == 0] = mean
    diagonal += damp_percent * mean
    if order is not None:
        hessian = hessian[order][:, order]
    lower = _factor(hessian, upper=False)
    del hessian, diagonal  # two matrices at a time: K = 12288 makes one 604 MB
    inverse = torch.cholesky_inverse(lower)
    del lower
    return Inverse(_factor(inverse, upper=True), order)


def _factor(matrix: torch.Tensor, *, upper: bool) -> torch.Tensor:
    factor, failed = torch.linalg.cholesky_ex(matrix, upper=upper)
    if failed or not torch.isfinite(factor.diagonal()).all():
        raise HessianError("the Hessian is not positive definite")
    return factor


def quantize(weight: torch.Tensor, inverse: Inverse, form: WeightFormat, blocksize: int = 128) -> Rounded:
    """The weight f32 [N, K] on its grid.

    A group's grid is that of its columns at the time the first of them is rounded, with all updates so far; so the
    result does not depend on ``blocksize``, columns whose updates are summed before they reach the columns behind. In
    another order of columns a group has no such time: there all grids are those of the original weight, and each
    column keeps the group of its place (the column k has the scale k // group).
    """
    rows, columns = weight.shape
    order = None if inverse.order is None else inverse.order.numpy()
    moved = weight if order is None else weight[:, inverse.order]
    left = moved.T.clone(memory_format=torch.contiguous_format)  # [K, N]: in its rows, the columns to come, updated
    values = np.empty((columns, rows), np.int8)
    grid = _Grid(weight.numpy(), left.numpy(), form, order)
    for start, stop in _blocks(columns, form.group, blocksize):
        errors = torch.empty(stop - start, rows)
        for step in range(start, stop):
            factors = inverse.upper[step]
            values[step], rounded = grid.round(step)
            error = torch.sub(left[step], torch.from_numpy(rounded), out=errors[step - start]).div_(factors[step])
            left[step + 1 : stop].addr_(factors[step + 1 : stop], error, alpha=-1)
        left[stop:].addmm_(inverse.upper[start:stop, stop:].T, errors, alpha=-1)
    if order is not None:
        values[order] = values.copy()
    return Rounded.of(values.T, grid.scale, grid.zero, form)


class _Grid:
    """Scales and zero points of a weight, known when they are needed."""

    def __init__(self, weight: Floats, left: Floats, form: WeightFormat, order: np.ndarray | None) -> None:
        self._left, self._form, self._order = left, form, order
        self._moving = form.group is not None and order is None
        self.scale: Floats
        self.zero: Integers | None
        if self._moving:
            shape = (len(weight), form.groups(len(left)))
            self.scale = np.empty(shape, np.float32)
            self.zero = np.empty(shape, np.int8) if form.zeros else None
        else:
            self.scale, self.zero = grids(weight, form)

    def round(self, step: int) -> tuple[Integers, Floats]:
        """Column number ``step`` in the order of quantization: its values int8 [N], and what they mean, f32 [N]."""
        form = self._form
        column = step if self._order is None else int(self._order[step])
        group = 0 if form.group is None else column // form.group
        if self._moving and column % form.group == 0:  # type: ignore[operator]
            scale, zero = group_scales(self._left[columns_of(group, len(self._left), form)].T, form)
            self.scale[:, group] = scale
            if self.zero is not None and zero is not None:
                self.zero[:, group] = zero
        scale = self.scale[:, group]
        zero = None if self.zero is None else self.zero[:, group]
        values = round_to_grid(self._left[step][:, None], scale, zero, form)
        single = WeightFormat(form.values, zeros=form.zeros)
        return values[:, 0], single.dequantize(values, scale, zero)[:, 0]


def _blocks(columns: int, group: int | None, blocksize: int) -> Iterator[tuple[int, int]]:
    """Ranges of at most ``blocksize`` columns that hold whole groups, or lie within one."""
    whole = group or blocksize
    size = blocksize // whole * whole if blocksize >= whole else whole
    for start in range(0, columns, size):
        stop = min(start + size, columns)
        for first in range(start, stop, blocksize):
            yield first, min(first + blocksize, stop)
