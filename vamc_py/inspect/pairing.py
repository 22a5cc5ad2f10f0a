"""Pairs the values of two functions that mean the same, whatever they are called and in whichever order they stand."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from difflib import SequenceMatcher

from vamc_py.inspect.bindings import Statement, View

Places = Sequence[int]  # as of layers.places_of
_MOST_MARKS = 20  # each costs some ms; real programs need none


class Pairing:
    """Which value of ``after`` stands for which of ``before``: ``partner`` and, the other way round, ``back``.

    Parameters pair by name and results by position. A statement pairs with one that does the same to the same values.
    Where none does, it pairs with one that stands in its place: of the same operator on the same values, of the same
    name, or between the same neighbours. Such a pair is a change, but what reads the one before and the other after is
    not changed by that. ``same`` has the values before whose statements did not change.
    """

    def __init__(self, before: View, after: View, places: tuple[Places, Places]) -> None:
        self.before, self.after = before, after
        self.partner: dict[int, int] = {}
        self.back: dict[int, int] = {}
        self.places = places
        self._alike = _Index(before, lambda statement: (statement.key, statement.values))
        self._of_operator = _Index(before, lambda statement: (statement.operator, statement.values))
        self._named = _Index(before, lambda statement: statement.name)
        self._marks: tuple[dict[int, int], dict[int, int]] = {}, {}
        self._colours: tuple[list[int], list[int]] | None = None  # where nobody has asked for them
        self._pair_interface()
        self._sweep(self._find_alike)
        self._sweep(self._find_alike, self._find_of_operator)
        self._sweep(self._find_alike, self._find_of_operator, self._find_named)
        self._align(lambda statement: statement.key)
        self._sweep(self._find_alike, self._find_of_operator)
        self._align(lambda statement: statement.operator)
        self._sweep(self._find_placed)
        self.same = {x for x, y in self.partner.items() if self._is_same(x, y)}

    def _pair(self, x: int, y: int) -> None:
        """Pairs two values, and what they read, argument by argument, as far as that is in no pair yet."""
        self.partner[x], self.back[y] = y, x
        if x < len(self.before.parameters) or y < len(self.after.parameters):
            return
        old, new = self.before.statement(x), self.after.statement(y)
        if old.operator == new.operator and len(old.values) == len(new.values):
            for a, b in zip(old.values, new.values, strict=True):
                if a not in self.partner and b not in self.back:
                    self.partner[a], self.back[b] = b, a

    def _is_same(self, x: int, y: int) -> bool:
        if x < len(self.before.parameters) or y < len(self.after.parameters):
            return False
        old, new = self.before.statement(x), self.after.statement(y)
        return old.key == new.key and [self.partner.get(value) for value in old.values] == list(new.values)

    def _pair_interface(self) -> None:
        numbers = {name: y for y, name in enumerate(distinct(name for name, _ in self.after.parameters))}
        for x, name in enumerate(distinct(name for name, _ in self.before.parameters)):
            if name in numbers:
                self.partner[x], self.back[numbers[name]] = numbers[name], x
        results = [[n for n, s in view.numbered() if s.operator == "result"] for view in (self.before, self.after)]
        for x, y in zip(*results, strict=False):
            self.partner[x], self.back[y] = y, x

    def _sweep(self, *finders: Callable[[int], int | None]) -> None:
        """Goes through the statements after, definitions first, and pairs those that one of the finders knows."""
        for y, _ in self.after.numbered():
            if y not in self.back:
                found = next((x for finder in finders if (x := finder(y)) is not None), None)
                if found is not None:
                    self._pair(found, y)

    def _values_before(self, y: int) -> tuple[int, ...] | None:
        """What the statement y reads, as values before; None when some of it is in no pair."""
        values = [self.back.get(value) for value in self.after.statement(y).values]
        return None if None in values else tuple(value for value in values if value is not None)

    def _find_alike(self, y: int) -> int | None:
        values = self._values_before(y)
        return None if values is None else self._best(self._alike[self.after.statement(y).key, values], y)

    def _find_of_operator(self, y: int) -> int | None:
        """The same operator on the same values with other attributes, or of another type."""
        values = self._values_before(y)
        return None if not values else self._best(self._of_operator[self.after.statement(y).operator, values], y)

    def _find_named(self, y: int) -> int | None:
        """The same name and type, or name and operator, where both read a common value or the same operators read
        them: passes keep names where they can, but give those that became free to other values."""
        new = self.after.statement(y)
        for x in self._named[new.name]:
            old = self.before.statement(x)
            if x not in self.partner and (old.type == new.type or old.operator == new.operator):
                common = {self.partner.get(value) for value in old.values}.intersection(new.values)
                readers = [{view.statement(user).operator for user in view.users[n]} for view, n in self._sides(x, y)]
                if common or readers[0] & readers[1]:
                    return x
        return None

    def _find_placed(self, y: int) -> int | None:
        """The same name, type and layer, for want of anything better."""
        new = self.after.statement(y)
        for x in self._named[new.name]:
            places = [self.places[side][n - len(view.parameters)] for side, (view, n) in enumerate(self._sides(x, y))]
            if x not in self.partner and self.before.statement(x).type == new.type and places[0] == places[1]:
                return x
        return None

    def _sides(self, x: int, y: int) -> tuple[tuple[View, int], tuple[View, int]]:
        return (self.before, x), (self.after, y)

    def _best(self, candidates: Sequence[int], y: int) -> int | None:
        """Among equal statements the one that plays the same part, else the one of the same name, else the first."""
        free = [x for x in candidates if x not in self.partner]
        if len(free) < 2:
            return free[0] if free else None
        colours = self._colours or self._coloured()
        alike = [x for x in free if colours[0][x] == colours[1][y]] or free
        named = [x for x in alike if self.before.names[x] == self.after.names[y]] or alike
        if len(alike) > 1 and len(self._marks[0]) < _MOST_MARKS:
            self._mark(named[0], y)
        return named[0]

    def _mark(self, x: int, y: int) -> None:
        """A choice among values that play the same part: what goes together with them must be chosen to match."""
        mark = len(self._marks[0])
        self._marks[0][x], self._marks[1][y] = mark, mark
        self._coloured()

    def _coloured(self) -> tuple[list[int], list[int]]:
        self._colours = _colours(self.before, self._marks[0]), _colours(self.after, self._marks[1])
        return self._colours

    def _align(self, key: Callable[[Statement], Hashable]) -> None:
        """Pairs what is left by the order in which it stands, layer by layer."""
        left = [
            _unpaired(view, places, paired)
            for view, places, paired in (
                (self.before, self.places[0], self.partner),
                (self.after, self.places[1], self.back),
            )
        ]
        for place in sorted(left[0].keys() & left[1].keys()):
            old, new = left[0][place], left[1][place]
            old_keys = [key(self.before.statement(x)) for x in old]
            new_keys = [key(self.after.statement(y)) for y in new]
            for block in SequenceMatcher(None, old_keys, new_keys, autojunk=False).get_matching_blocks():
                for x, y in zip(old[block.a : block.a + block.size], new[block.b : block.b + block.size], strict=True):
                    if x not in self.partner and y not in self.back:
                        self._pair(x, y)


def distinct(names: Iterable[str]) -> list[tuple[str, int]]:
    """The names, each with how often it was there before: parameters may share one."""
    seen: dict[str, int] = defaultdict(int)
    result = []
    for name in names:
        result.append((name, seen[name]))
        seen[name] += 1
    return result


class _Index:
    """The numbers of a view's statements by a key."""

    def __init__(self, view: View, key: Callable[[Statement], Hashable]) -> None:
        self._numbers: dict[Hashable, list[int]] = defaultdict(list)
        for number, statement in view.numbered():
            if statement.operator != "result":
                self._numbers[key(statement)].append(number)

    def __getitem__(self, key: Hashable) -> list[int]:
        return self._numbers.get(key, [])


def _unpaired(view: View, places: Places, paired: dict[int, int]) -> dict[int, list[int]]:
    """The statements that are in no pair, by place."""
    left: dict[int, list[int]] = defaultdict(list)
    for (number, _), place in zip(view.numbered(), places, strict=True):
        if number not in paired:
            left[place].append(number)
    return left


def _colours(view: View, marks: Mapping[int, int]) -> list[int]:
    """By value a hash of how it is made and of all that is made of it, equal for values of two functions that play
    the same part. ``marks`` are numbers that set values apart."""
    colours = [hash(("parameter", name)) for name, _ in view.parameters]
    # Results have equal keys; their names tell which is which.
    colours += [
        hash((statement.key, statement.operator == "result" and statement.name)) for statement in view.statements
    ]
    for value, mark in marks.items():
        colours[value] = hash((colours[value], mark))
    kinds = 0
    while len(set(colours)) > kinds:
        kinds = len(set(colours))
        colours = _refined(view, colours)
    return colours


def _refined(view: View, colours: list[int]) -> list[int]:
    """The hashes with those of inputs taken in from the first value on, and those of readers from the last one on."""
    first = len(view.parameters)
    made = colours[:first]
    for number, statement in view.numbered():
        made.append(hash((colours[number], *(made[value] for value in statement.values))))
    used: list[list[int]] = [[] for _ in made]
    refined = list(made)
    for number in reversed(range(len(made))):
        refined[number] = hash((made[number], *sorted(used[number])))
        if number >= first:
            for position, value in enumerate(view.statement(number).values):
                used[value].append(hash((refined[number], position)))
    return refined
