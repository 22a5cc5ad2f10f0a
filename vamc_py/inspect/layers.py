"""Which layer of the model each binding of a Relax function belongs to."""

from __future__ import annotations

import re
from typing import Any

from tvm import relax

from vamc_py.inspect.bindings import Members, Statement, View
from vamc_py.pipeline.graph import bindings
from vamc_py.pipeline.program import CACHES_ATTRIBUTE, INPUTS_ATTRIBUTE, attribute, layout

__all__ = ["BEFORE", "BEHIND", "Members", "layer_of_bindings", "layers_of", "member_names", "named_layer", "places_of"]

# "model.layers.3.mlp.up_proj.weight": the first number that stands alone; "past_k_3", "v_cache_3": the last.
_NAMED_LAYER = re.compile(r"(?:^|\.)(\d+)\.|^(?:past_[kv]|[kv]_cache)_(\d+)$")
_CACHE_FIELD = re.compile(r"^caches\[(\d+)\]$")  # of the tuple that bundle-parameters makes: k and v of each layer
# Places beside the layers' numbers. What serves several layers is computed before the first one that needs it.
BEFORE, BEHIND = -1, 1 << 30
_WANTED = "rows"  # the input of `step` that says whose logits are wanted


def layer_of_bindings(function: Any, members: Members | None = None) -> dict[str, int | None]:
    """The layer, from 0, by name of the binding; None for what lies before or behind the layers or serves several.

    A binding that reads a weight, a past or a cache of a layer belongs to it. The others belong where their inputs
    come from, unless they only prepare the next layer (the square in its norm, say). When parameters are tuples,
    ``members`` names their fields, {"params": ["model.layers.0.…", …]}; without it only the caches tell layers.
    """
    view = View(function)
    layers = layers_of(view, members or {})
    numbers = {str(var.name): view.number(var) for var, _ in bindings(function)}
    first = len(view.parameters)
    return {
        name: layers[number - first] if number is not None and number >= first else None
        for name, number in numbers.items()
    }


def named_layer(name: str) -> int | None:
    """The layer that the name of a parameter speaks of: 3 for model.layers.3.mlp.up_proj.weight and for k_cache_3."""
    field = _CACHE_FIELD.search(name)
    if field:
        return int(field[1]) // 2
    found = _NAMED_LAYER.search(name)
    return int(found[1] or found[2]) if found else None


def member_names(before: Any, after: Any) -> dict[str, list[str]]:
    """The fields of the tuple parameters of one function by the single parameters of another, from which
    bundle-parameters made them; empty where the numbers do not fit."""
    _, caches, weights = layout(before)
    sizes = {name: len(fields) for name, fields in tuple_fields(after).items()}
    names = {"caches": [str(var.name) for var in caches], "params": [str(var.name) for var in weights]}
    return names if sizes == {name: len(fields) for name, fields in names.items()} else {}


def tuple_fields(function: Any) -> dict[str, list[str]]:
    """The fields of the parameters that are tuples, named by their index: params[0], params[1], …"""
    tuples = [(str(var.name), var.ty) for var in function.params if isinstance(var.ty, relax.TupleType)]
    return {name: [f"{name}[{index}]" for index in range(len(kind.fields))] for name, kind in tuples}


def parameters_read(view: View, statement: Statement, members: Members) -> list[str]:
    """The names of the parameters that a statement reads; of a tuple's field its own where it is known."""
    names = []
    for value in statement.values:
        if value < len(view.parameters):
            name = view.names[value]
            if statement.operator == "item":
                field = statement.pieces[1]
                name = members[name][int(field.strip("[]"))] if name in members else name + field
            names.append(name)
    return names


def places_of(view: View, members: Members) -> list[int]:
    """The place of each statement of the view: the number of a layer, BEFORE or BEHIND."""
    return [BEFORE if place is None else place for place in _Places(view, members).found]


def layers_of(view: View, members: Members) -> list[int | None]:
    """The layer of each statement of the view; None for what belongs to none."""
    return [place if BEFORE < place < BEHIND else None for place in places_of(view, members)]


class _Places:
    """The place of each statement: a layer, before or behind them, or None for what serves several."""

    def __init__(self, view: View, members: Members) -> None:
        self.view = view
        self.named, self.weights = _named_places(view, members)
        self.above = self._above()
        self.below = self._below()
        self.found = list(self.above)
        between: dict[int, list[int]] = {}
        for index, above in enumerate(self.above):
            below = self.below[index]
            if self.named[index] is None and above is not None and below and min(below) > above:
                between.setdefault(above, []).append(index)
        for above, indices in between.items():
            self._divide(above, indices)
        self._place_sources()

    def _inputs(self, index: int) -> list[int]:
        first = len(self.view.parameters)
        return [value - first for value in self.view.statements[index].values if value >= first]

    def _users(self, index: int) -> list[int]:
        first = len(self.view.parameters)
        return [user - first for user in self.view.users[index + first]]

    def _above(self) -> list[int | None]:
        """By statement: the last place that it, or what it is computed from, names."""
        above: list[int | None] = []
        for index, own in enumerate(self.named):
            places = [place for read in self._inputs(index) if (place := above[read]) is not None]
            if own == BEFORE and any(place >= 0 for place in places):
                own = BEHIND  # a weight of no layer, read behind the layers: the last norm, lm_head
            above.append(max([*places, *([] if own is None else [own])], default=None))
        return above

    def _selects(self, index: int) -> bool:
        """Whether the statement reads which rows are wanted: that is for what is behind the last attention."""
        read = self.view.statements[index].values
        return any(self.view.names[value] == _WANTED for value in read if value < len(self.view.parameters))

    def _below(self) -> list[set[int]]:
        """By statement: the places of the first statements that name one and are computed from it."""
        below: list[set[int]] = [set() for _ in self.named]
        for index in reversed(range(len(below))):
            above = self.above[index]
            for read in self._inputs(index):
                below[read] |= below[index] if self.named[index] is None or above is None else {above}
        return below

    def _place_sources(self) -> None:
        """What is computed from the inputs alone, or from weights of no layer, belongs where it is read, if that is
        one place."""
        for index in reversed(range(len(self.found))):
            if self.above[index] is None or (index in self.weights and self.above[index] == BEFORE):
                places = {self.found[user] for user in self._users(index)}
                self.found[index] = places.pop() if len(places) == 1 else None

    def _divide(self, above: int, between: list[int]) -> None:
        """Moves those statements between two places that only prepare the later one.

        The output of the earlier one is what the later one reads most often: once for its norm, once for its residual
        (of the last layer: for the wanted rows of that). Behind the last layer nothing reads it twice; there it is the
        sum that joins two values.
        """
        inside = set(between)

        def readers(index: int) -> tuple[bool, int, bool]:
            users = self._users(index)
            later = [user for user in users if user in inside or self.above[user] != above or self._selects(user)]
            outside = any(user not in inside or self._selects(user) for user in later)
            joins = index in inside and len(set(self._inputs(index)) - inside) > 1
            return len(later) > 1 and outside, len(later), joins

        candidates = sorted(inside | {read for index in between for read in self._inputs(index)})
        output = max((i for i in candidates if self.above[i] == above), key=readers)
        moved: set[int] = set()
        for index in between:
            if any(read == output or read in moved for read in self._inputs(index)):
                moved.add(index)
                self.found[index] = min(self.below[index])


def _named_places(view: View, members: Members) -> tuple[list[int | None], set[int]]:
    """By statement: the layer that its parameters name, BEFORE for weights of no layer, None for neither. And which
    statements are made of weights alone, or are a field of a tuple."""
    data = attribute(view.function, INPUTS_ATTRIBUTE, 0) + attribute(view.function, CACHES_ATTRIBUTE, 0)
    weights = {name for name, kind in view.parameters[data:] if not kind.startswith("(")}
    weights |= {name for fields in members.values() for name in fields}
    made: dict[int, list[str]] = {}  # by value that is made of weights alone, or a field of a tuple: their names
    places: list[int | None] = []
    for number, statement in view.numbered():
        names = parameters_read(view, statement, members)
        only_weights = weights.issuperset(names) and all(
            v in made or v < len(view.parameters) for v in statement.values
        )
        names += [name for value in statement.values for name in made.get(value, ())]
        if names and (only_weights or statement.operator == "item"):
            made[number] = names
        layers = [layer for name in names if (layer := named_layer(name)) is not None]
        places.append(max(layers) if layers else BEFORE if weights.intersection(names) else None)
    return places, {number - len(view.parameters) for number in made}
