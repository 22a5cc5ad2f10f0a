"""The weights of a module, made as its parameter plan says, in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from vamc_py.check.values import Array, Value
from vamc_py.errors import CheckpointError
from vamc_py.weights.execute import stacked
from vamc_py.weights.plan import ParameterPlan, Recipe

Read = Callable[[str], Array]  # a tensor of the checkpoint by its name


def make_weight(recipe: Recipe, read: Read) -> Array:
    """One parameter, whole. CheckpointError for one that is not finite, which no compile would take."""
    block: Any = recipe.chosen(stacked([np.asarray(read(source)) for source in recipe.sources]))
    for step in recipe.steps:
        block = step.apply(block)
    if block.dtype.kind not in "iu" and not np.isfinite(block.astype(np.float32)).all():
        raise CheckpointError(f"{', '.join(recipe.sources)}: not finite in {block.dtype}; choose a wider backend.dtype")
    return np.asarray(block)


class Weights:
    """Weights by their recipes; those of the last two plans are kept, as the next one mostly wants the same.

    ``read`` gives a tensor of the checkpoint by its name.
    """

    def __init__(self, read: Read) -> None:
        self.read = read
        self._last: dict[str, Value] = {}
        self._older: dict[str, Value] = {}

    def make(self, plan: ParameterPlan, names: Iterable[str]) -> dict[str, Value]:
        """The weights of these names."""
        recipes = {name: plan[name] for name in names}
        known = {**self._older, **self._last}
        made: dict[str, Value] = {}
        for recipe in recipes.values():
            key = repr(recipe)
            if key not in made:
                made[key] = known[key] if key in known else Value(make_weight(recipe, self.read))
        self._older, self._last = self._last, made
        return {name: made[repr(recipe)] for name, recipe in recipes.items()}
