"""Small random Relax functions for tests of comparisons: a recipe, and the function that it makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from tvm import relax, tirx

UNARY = ("exp", "negative")
BINARY = ("add", "multiply")
PARAMETERS = ("x", "y")


@dataclass(frozen=True)
class Recipe:
    """Bindings as (operator, inputs): inputs are 0 and 1 for the parameters, then the bindings by number."""

    bindings: tuple[tuple[str, tuple[int, ...]], ...]
    results: tuple[int, ...]

    def trees(self) -> list[Any]:
        """What the results compute, whatever anything is called."""
        made: list[Any] = list(PARAMETERS)
        for operator, inputs in self.bindings:
            made.append((operator, *(made[value] for value in inputs)))
        return [made[result] for result in self.results]


@st.composite
def recipes(draw: st.DrawFn, most: int = 7) -> Recipe:
    bindings: list[tuple[str, tuple[int, ...]]] = []
    for number in range(draw(st.integers(1, most))):
        values = st.integers(0, number + len(PARAMETERS) - 1)
        operator = draw(st.sampled_from(UNARY + BINARY))
        bindings.append((operator, tuple(draw(values) for _ in range(1 if operator in UNARY else 2))))
    results = st.lists(st.integers(len(PARAMETERS), len(bindings) + len(PARAMETERS) - 1), min_size=1, max_size=3)
    return Recipe(tuple(bindings), tuple(draw(results)))


@st.composite
def orders(draw: st.DrawFn, recipe: Recipe) -> list[int]:
    """The bindings of a recipe in some order that keeps definitions before their readers."""
    left, order = list(range(len(recipe.bindings))), []
    while left:
        defined = {*range(len(PARAMETERS)), *(len(PARAMETERS) + number for number in order)}
        ready = [number for number in left if defined.issuperset(recipe.bindings[number][1])]
        order.append(draw(st.sampled_from(ready)))
        left.remove(order[-1])
    return order


def function_of(
    recipe: Recipe, *, order: Sequence[int] | None = None, names: Sequence[str] = (), size: str = "n"
) -> Any:
    """The function of a recipe on f32[size, 4]. ``names`` are those of the bindings, by default v0, v1, …"""
    kind = relax.TensorType([tirx.Var(size, "int64"), 4], "float32")
    values: dict[int, Any] = {number: relax.Var(name, kind) for number, name in enumerate(PARAMETERS)}
    parameters = list(values.values())
    builder = relax.BlockBuilder()
    with builder.function("main", parameters):
        with builder.dataflow():
            for number in order or range(len(recipe.bindings)):
                operator, inputs = recipe.bindings[number]
                call = getattr(relax.op, operator)(*(values[value] for value in inputs))
                name = names[number] if names else f"v{number}"
                values[len(PARAMETERS) + number] = builder.emit(call, name)
            output = builder.emit_output(relax.Tuple([values[result] for result in recipe.results]))
        builder.emit_func_output(output)
    return builder.get()["main"]
