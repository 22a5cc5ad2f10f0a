"""A weight as integers on a grid, and rounding to nearest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vamc_py.weights.formats import SCALE, ZERO, Floats, WeightFormat
from vamc_py.weights.grid import Integers, group_scales, round_to_grid


@dataclass(frozen=True)
class Rounded:
    """A weight [N, K] in a format: ``values`` int8 [N, K], ``scale`` and ``zero`` in the format's shape."""

    values: Integers
    scale: NDArray[np.generic]  # of the format's dtype
    zero: Integers | None
    form: WeightFormat

    @classmethod
    def of(cls, values: Integers, scale: Floats, zero: Integers | None, form: WeightFormat) -> Rounded:
        """From scales f32 [N, G], representable in the format's dtype, and zero points int8 [N, G]."""
        shape = form.scale_shape(*values.shape)
        kept = np.ascontiguousarray(scale.astype(form.scale)).reshape(shape)
        return cls(
            np.ascontiguousarray(values),
            kept,
            None if zero is None else np.ascontiguousarray(zero).reshape(shape),
            form,
        )

    def floats(self) -> Floats:
        """The weight f32 [N, K] that these integers mean."""
        return self.form.dequantize(self.values, self.scale, self.zero)

    def tensors(self, name: str) -> dict[str, NDArray[np.generic]]:
        """What a checkpoint has for the weight of this name."""
        found: dict[str, NDArray[np.generic]] = {name: self.values, name + SCALE: self.scale}
        return found if self.zero is None else found | {name + ZERO: self.zero}


def columns_of(group: int, columns: int, form: WeightFormat) -> slice:
    """The columns of a group; the last one may be shorter."""
    size = columns if form.group is None else form.group
    return slice(group * size, min((group + 1) * size, columns))


def grids(weight: Floats, form: WeightFormat) -> tuple[Floats, Integers | None]:
    """Scales f32 [N, G] and zero points int8 [N, G] of all groups of a weight f32 [N, K]."""
    columns = weight.shape[1]
    pairs = [group_scales(weight[:, columns_of(g, columns, form)], form) for g in range(form.groups(columns))]
    scale = np.stack([scale for scale, _ in pairs], axis=1)
    return scale, np.stack([zero for _, zero in pairs if zero is not None], axis=1) if form.zeros else None


def round_to_nearest(weight: Floats, form: WeightFormat) -> Rounded:
    """A weight f32 [N, K] on the grids of its groups, each value for itself."""
    rows, columns = weight.shape
    scale, zero = grids(weight, form)
    values = np.empty((rows, columns), np.int8)
    for g in range(form.groups(columns)):
        at = columns_of(g, columns, form)
        values[:, at] = round_to_grid(weight[:, at], scale[:, g], None if zero is None else zero[:, g], form)
    return Rounded.of(values, scale, zero, form)
