"""``--set frontend.quantize.type=w8a16``: values laid over the file's."""

from __future__ import annotations

from typing import Any

from vamc_py.config.old_names import new_path
from vamc_py.config.place import Fault, Path, Place, dotted, shorten
from vamc_py.config.tree import Tree, read_tree


def override(tree: Tree, assignment: str) -> None:
    """Set one value, making the mappings above it that the file does not have.

    The value is read as YAML, so ``4``, ``true``, ``[[512], [2048]]`` and ``{type: w8a16}`` are what they look like;
    nothing after ``=`` is null. A mapping replaces the file's mapping whole. Lists are set whole, too.

    :raises ConfigError: the value is no YAML. Other faults are noted in ``tree.faults``.
    """
    place = Place(0, 0, f"--set {shorten(assignment, 120)}")
    key, equals, text = assignment.partition("=")
    path = new_path(tuple(part.strip() for part in key.split(".")))
    if not equals or not all(path):
        message = "not of the form key=value, such as --set frontend.quantize.type=w8a16"
        tree.faults.append(Fault(place, (), message))
        return
    value = read_tree(text, lambda line, column: place, path)
    holder = _holder(tree, path, place)
    if holder is None:
        return
    _forget(tree, path)
    tree.places.update(value.places)
    tree.keys.update({path: place, **value.keys})
    tree.refused |= value.refused
    tree.faults.extend(value.faults)
    holder.pop(path[-1], None)
    if path not in value.refused:
        holder[path[-1]] = value.data


def _holder(tree: Tree, path: Path, place: Place) -> dict[str | int, Any] | None:
    """The mapping that holds ``path``, made where it is absent or empty; None, with a fault, where it is no mapping."""
    holder: dict[str | int, Any] = tree.data
    for depth in range(1, len(path)):
        above, key = path[:depth], path[depth - 1]
        if holder.get(key) is None:
            holder[key] = {}
            tree.places.setdefault(above, place)
            tree.keys.setdefault(above, place)
        if not isinstance(holder[key], dict):
            message = f"cannot be set: {dotted(above)} is no mapping"
            tree.faults.append(Fault(place, path, message))
            return None
        holder = holder[key]
    return holder


def _forget(tree: Tree, path: Path) -> None:
    """Drop the places and faults of what an override replaces."""
    for places in (tree.places, tree.keys):
        for old in [old for old in places if old[: len(path)] == path]:
            del places[old]
    tree.refused = {old for old in tree.refused if old[: len(path)] != path}
    tree.faults[:] = [fault for fault in tree.faults if fault.path[: len(path)] != path]
