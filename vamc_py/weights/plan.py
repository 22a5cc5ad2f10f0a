"""The parameter plan: from which checkpoint tensors, by which steps, each parameter of the module is made.

Passes change the graph and the plan together; no weight is read until the plan runs. Every step works on a block of
rows alone, so that the plan can run over memory-mapped tensors in pieces.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
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


@dataclass(frozen=True)
class SelectColumns:
    """The columns [start, stop), then ``zeros`` columns of zeros.

    It stands behind the steps that look at whole rows: how a weight is rounded does not depend on who has its columns.
    """

    start: int
    stop: int
    zeros: int = 0
    rows_multiple: int = 1

    def apply(self, block: Array) -> Array:
        """[rows, K], stop <= K -> [rows, stop - start + zeros]. ValueError where the block has no such columns."""
        if not (block.ndim == 2 and 0 <= self.start <= self.stop <= block.shape[1]):
            raise ValueError(f"a block of shape {block.shape} has no columns {self.start} to {self.stop}")
        part = block[:, self.start : self.stop]
        return np.concatenate([part, np.zeros((len(block), self.zeros), block.dtype)], axis=1) if self.zeros else part


def numpy_dtype(name: str) -> np.dtype[np.generic]:
    """The numpy type of a TVM element type; bfloat16 and float8_e4m3fn through ml_dtypes."""
    return np.dtype(getattr(ml_dtypes, name) if name in ("bfloat16", "float8_e4m3fn") else name)


@dataclass(frozen=True)
class Rows:
    """The rows [start, stop) of a recipe's sources, counted as they stand one below the other; then zeros.

    ``zeros`` rows of zeros follow, so ``Rows(0, 0, n)`` is nothing else.
    """

    start: int
    stop: int
    zeros: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.start <= self.stop and self.zeros >= 0):
            raise ValueError(f"{self} are no rows")

    def __len__(self) -> int:
        return self.stop - self.start + self.zeros

    def times(self, size: int) -> Rows:
        """The same where each row is ``size`` rows."""
        return Rows(self.start * size, self.stop * size, self.zeros * size)

    def behind(self, offset: int) -> Rows:
        """The same ``offset`` rows further down."""
        return Rows(self.start + offset, self.stop + offset, self.zeros)


def _among(parts: Sequence[Rows], starts: Sequence[int], wanted: Rows) -> Iterator[Rows]:
    """The rows `wanted` of those that `parts`, which begin at `starts`, choose."""
    for number in range(max(bisect_right(starts, wanted.start) - 1, 0), len(parts)):
        part, start = parts[number], starts[number]
        if start >= wanted.stop:
            break
        first, last = max(wanted.start - start, 0), min(wanted.stop - start, len(part))
        length = part.stop - part.start
        yield Rows(
            part.start + min(first, length), part.start + min(last, length), max(last - max(first, length), 0)
        )  # fmt: skip
    if wanted.zeros:
        yield Rows(0, 0, wanted.zeros)


@dataclass(frozen=True)
class Recipe:
    """How one parameter is made: source tensors one below the other, of these the chosen rows, then the steps."""

    sources: tuple[str, ...]  # names in the checkpoint
    steps: tuple[Step, ...] = ()
    rows: tuple[Rows, ...] | None = None
    """One below the other; they may overlap and repeat. None: all rows of the sources."""

    def then(self, *steps: Step) -> Recipe:
        """The recipe with more steps."""
        return replace(self, steps=(*self.steps, *steps))

    def choosing(self, *rows: Rows) -> Recipe:
        """The recipe of these rows alone, before its steps: of the sources', or of those that it has chosen already.

        ValueError where its steps want more rows together than the parts have.
        """
        for number in (number for part in rows for number in (part.start, part.stop, part.zeros)):
            if number % self.rows_multiple:
                raise ValueError(f"{self.sources}: the steps keep {self.rows_multiple} rows together, not {rows}")
        if self.rows is None:
            return replace(self, rows=rows)
        starts = list(accumulate((len(part) for part in self.rows), initial=0))
        composed = [piece for one in rows for piece in _among(self.rows, starts, one)]
        return replace(self, rows=tuple(composed) or (Rows(0, 0),))

    def chosen(self, block: Array) -> Array:
        """The chosen rows of ``block``, which holds the sources one below the other."""
        if self.rows is None:
            return block
        pieces: list[Array] = []
        for part in self.rows:
            pieces += [block[part.start : part.stop], np.zeros((part.zeros, *block.shape[1:]), block.dtype)]
        return np.concatenate(pieces)

    @property
    def rows_multiple(self) -> int:
        """How many rows must stay together."""
        return math.lcm(*(step.rows_multiple for step in self.steps))


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
