"""The parameter plan: from which checkpoint tensors, by which steps, each parameter of the module is made.

Passes change the graph and the plan together; no weight is read until the plan runs. Every step works on a block of
rows alone, so that the plan can run over memory-mapped tensors in pieces.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from vamc_py.weights.formats import Values, WeightFormat
from vamc_py.weights.grid import group_scales, round_to_grid
from vamc_py.weights.rounded import grids, round_to_nearest

Array = NDArray[np.generic]


class Step(Protocol):
    """One row-wise change of a block of rows; ``rows_multiple`` rows must stay together."""

    @property
    def rows_multiple(self) -> int: ...

    def apply(self, block: Array) -> Array: ...


@dataclass(frozen=True)
class Cast:
    """To another element type. "bfloat16" gives ml_dtypes.bfloat16."""

    dtype: str
    rows_multiple: int = 1

    def apply(self, block: Array) -> Array:
        """Same shape, other element type; round to nearest even. What is too large becomes infinite, without a warning:
        whoever runs the plan refuses it."""
        with np.errstate(over="ignore"):
            return block.astype(numpy_dtype(self.dtype), copy=False)


@dataclass(frozen=True)
class QuantizeRows:
    """Symmetric int8 by row, round to nearest even: scale = max|w| / 127. Gives the integers, or the scales.

    A row of zeros has the scale 1. No scale is below the smallest normal float32: a subnormal one is too coarse to keep
    the integers within 127.
    """

    part: str  # "values": int8, like the block; "scale": float32 [rows]
    rows_multiple: int = 1

    def apply(self, block: Array) -> Array:
        """f32 [rows, K], finite -> int8 [rows, K] or f32 [rows]."""
        form = WeightFormat("int8")
        weights = np.asarray(block, dtype=np.float32)
        scale, zero = group_scales(weights, form)
        return scale if self.part == "scale" else round_to_grid(weights, scale, zero, form)


@dataclass(frozen=True)
class QuantizeGroups:
    """Integers with a scale for each row and group of columns (see ``weights.grid``). Gives one of the three parts.

    The fields behind ``part`` are those of a ``WeightFormat``.
    """

    part: str  # "values": int8 [rows, K]; "scale": of the type `scale` [rows, groups]; "zero": int8 [rows, groups]
    values: Values
    group: int | None
    zeros: bool
    scale: Literal["float32", "float16"]
    rows_multiple: int = 1

    def apply(self, block: Array) -> Array:
        """f32 [rows, K], finite -> the part. A scale too large for its type becomes infinite: whoever runs the plan
        refuses it."""
        form = WeightFormat(self.values, self.group, self.zeros, self.scale)
        weights = np.asarray(block, dtype=np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            if self.part == "values":
                return round_to_nearest(weights, form).values
            scale, zero = grids(weights, form)
            part = scale.astype(form.scale) if self.part == "scale" else zero
        assert part is not None
        return part.reshape(form.scale_shape(*weights.shape))


@dataclass(frozen=True)
class MeanRotated:
    """The mean over positions of a bias that is rotated as keys are: of each head, in the two halves of its pairs."""

    frequencies: tuple[float, ...]
    """Radians a position, for each pair (i, i + d/2) of a head."""
    scaling: float
    positions: int

    @property
    def rows_multiple(self) -> int:
        """A whole head."""
        return 2 * len(self.frequencies)

    def apply(self, block: Array) -> Array:
        """f32 [heads * d] -> f32 [heads, d]; computed in float64."""
        half = len(self.frequencies)
        heads = np.asarray(block, dtype=np.float64).reshape(-1, 2, half)
        turns = np.exp(1j * np.outer(np.arange(self.positions), np.asarray(self.frequencies)))
        mean = (heads[:, 0] + 1j * heads[:, 1]) * turns.mean(axis=0) * self.scaling
        return np.concatenate([mean.real, mean.imag], axis=1).astype(np.float32)


def numpy_dtype(name: str) -> np.dtype[np.generic]:
    """The numpy type of a TVM element type; bfloat16 and float8_e4m3fn through ml_dtypes."""
    return np.dtype(getattr(ml_dtypes, name) if name in ("bfloat16", "float8_e4m3fn") else name)


@dataclass(frozen=True)
class Recipe:
    """How one parameter is made: source tensors one below the other, then the steps."""

    sources: tuple[str, ...]  # names in the checkpoint
    steps: tuple[Step, ...] = ()

    def then(self, *steps: Step) -> Recipe:
        """The recipe with more steps."""
        return replace(self, steps=(*self.steps, *steps))


@dataclass(frozen=True)
class ParameterPlan:
    """Recipe by parameter name. Immutable: a pass makes a changed copy."""

    recipes: Mapping[str, Recipe] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Recipe:
        return self.recipes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.recipes)

    def with_recipes(self, recipes: Mapping[str, Recipe]) -> ParameterPlan:
        """The plan with more or other recipes."""
        return ParameterPlan({**self.recipes, **recipes})

    def only(self, names: list[str]) -> ParameterPlan:
        """The plan for these parameters, in this order."""
        return ParameterPlan({name: self.recipes[name] for name in names})
