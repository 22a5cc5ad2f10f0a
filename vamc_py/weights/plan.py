"""The parameter plan: from which checkpoint tensors, by which steps, each parameter of the module is made.

Passes change the graph and the plan together; no weight is read until the plan runs. Every step works on a block of
rows alone, so that the plan can run over memory-mapped tensors in pieces.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
INT8_LARGEST = 127  # -128 is not used, so that the range is symmetric


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
        weights = np.asarray(block, dtype=np.float32)
        largest = np.maximum(weights.max(axis=1, initial=0.0), -weights.min(axis=1, initial=0.0))
        scale = np.maximum(largest / np.float32(INT8_LARGEST), np.finfo(np.float32).tiny)
        scale = np.where(largest == 0, np.float32(1), scale)
        if self.part == "scale":
            return scale
        return np.rint(weights / scale[:, None]).astype(np.int8)


def numpy_dtype(name: str) -> np.dtype[np.generic]:
    """The numpy type of a TVM element type; bfloat16 through ml_dtypes."""
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


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
