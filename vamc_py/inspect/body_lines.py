"""The bindings of two paired functions as one list of lines: removed, added and unchanged ones."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Iterator

from vamc_py.inspect.bindings import Statement, View
from vamc_py.inspect.folding import Line
from vamc_py.inspect.layers import named_layer
from vamc_py.inspect.pairing import Pairing

_INDEX = re.compile(r"\[\d+\]")


def body_lines(pairing: Pairing, texts: View) -> Iterator[Line]:
    """All statements after in their order, and those that are gone where they were.

    ``texts`` is the function before with the names that are shown for it. A removed line stands before the added one
    that replaces it; one that nothing replaces before the line that replaces its reader.
    """
    kept = {pairing.partner[x] for x in pairing.same}
    gone = _gone_before(pairing)
    for y, statement in pairing.after.numbered():
        for x in gone.pop(y, ()):
            yield _removed(pairing, texts, x)
        place = pairing.places[1][y - len(pairing.after.parameters)]
        text = pairing.after.line(statement)
        if y in kept:
            yield Line("same", text, place, None)
        else:
            shape, values = _shape(pairing, pairing.after, statement)
            yield Line("added", text, place, shape, (("after", y), *values))
    for rest in gone.values():
        for x in rest:
            yield _removed(pairing, texts, x)


def _removed(pairing: Pairing, texts: View, x: int) -> Line:
    place = pairing.places[0][x - len(pairing.before.parameters)]
    shape, values = _shape(pairing, pairing.before, pairing.before.statement(x))
    return Line("removed", texts.line(texts.statement(x)), place, shape, (_identity(pairing, x), *values))


def _identity(pairing: Pairing, x: int) -> Hashable:
    """A value before; the same as the one after that it is or that stands in its place."""
    return ("after", pairing.partner[x]) if x in pairing.partner else ("before", x)


def _gone_before(pairing: Pairing) -> dict[int, list[int]]:
    """The removed statements by the statement after before which they are shown; behind the last one by its number
    and one."""
    first, first_after = len(pairing.before.parameters), len(pairing.after.parameters)
    end = len(pairing.after.names)
    anchors: dict[int, int] = {}
    following = end  # the statement after that stands for the next unchanged one
    for x, _ in reversed(list(pairing.before.numbered())):
        if x in pairing.same:
            following = pairing.partner[x]
            continue
        partner = pairing.partner.get(x, -1)
        readers = [anchors[user] for user in pairing.before.users[x] if user in anchors]
        anchors[x] = partner if partner >= first_after else min(readers, default=following)
    gone: dict[int, list[int]] = defaultdict(list)
    for x in range(first, len(pairing.before.names)):
        if x in anchors:
            gone[anchors[x]].append(x)
    return gone


def _shape(pairing: Pairing, view: View, statement: Statement) -> tuple[Hashable, list[Hashable]]:
    """What the statement is, up to the numbers of layers and the names of values, and the values that it reads."""
    before = view is pairing.before
    parameters: list[str] = []
    values: list[Hashable] = []
    for value in statement.values:
        if value < len(view.parameters):
            name = view.names[value]
            parameters.append(re.sub(r"\d+", "N", name) if named_layer(name) is not None else name)
        elif before:
            values.append(_identity(pairing, value))
        else:
            values.append(("after", value))
    of_tuple = statement.operator == "item" and parameters  # a tuple of parameters: each layer has its own fields
    pieces = tuple(_INDEX.sub("[]", piece) for piece in statement.pieces) if of_tuple else statement.pieces
    order = tuple(value < len(view.parameters) for value in statement.values)
    return (pieces, statement.type, tuple(parameters), order), values
