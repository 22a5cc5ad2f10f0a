"""Rules between the keys of one entry of ``passes``; whether the passes exist is for the compiler to say."""

from __future__ import annotations

import re
from typing import Any

from vamc_py.config.passes import PassChange
from vamc_py.config.place import Path
from vamc_py.config.tree import Tree

_SUBJECTS = ("name", "file", "clear")
_FILE = re.compile(r"(?s).+\.py:[A-Za-z_][A-Za-z_0-9]*")


def check_pass_changes(tree: Tree, changes: Any) -> None:
    """Note in ``tree.faults`` which keys contradict each other; keys of a wrong type are left to the models."""
    if not isinstance(changes, tuple):
        return
    cleared = False
    for index, change in enumerate(changes):
        if not isinstance(change, dict):
            continue
        path: Path = ("passes", index)
        given = {key: value for key, value in change.items() if value is not None}
        _check_subject(tree, path, given)
        if "clear" in given:
            _check_clear(tree, path, given, first=index == 0)
        elif given.get("off") is True:
            _refuse(
                tree, path, given, ("file", "options", "after", "before", "again"), "a pass that is off has no such key"
            )
        if "after" in given and "before" in given:
            tree.fault((*path, "before"), "the place is said by after already; keep one of the two")
        if cleared:
            where = "below clear: true every entry is a run of its own, in the order written"
            _refuse(tree, path, given, ("after", "before", "off", "again"), where)
        cleared = cleared or given.get("clear") is True


def _check_subject(tree: Tree, path: Path, given: dict[str, Any]) -> None:
    subjects = [key for key in _SUBJECTS if key in given]
    if not subjects and not tree.refused_below(path) and given.keys() <= PassChange.model_fields.keys():
        tree.fault(path, "says no pass; write name: with one that `vamc-py passes` lists, or file: with path.py:Class")
    elif len(subjects) > 1 and "clear" not in subjects:
        tree.fault((*path, "file"), "the pass is said by name already; keep one of the two")
    if isinstance(given.get("file"), str) and given["file"] and not _FILE.fullmatch(given["file"]):
        tree.fault((*path, "file"), "must be a file and a class in it, such as my_pass.py:MyPass")


def _check_clear(tree: Tree, path: Path, given: dict[str, Any], *, first: bool) -> None:
    if given["clear"] is False:
        tree.fault((*path, "clear"), "false changes nothing; remove the entry")
    elif not first:
        tree.fault((*path, "clear"), "the entries above it would change nothing; make it the first")
    _refuse(tree, path, given, tuple(key for key in given if key != "clear"), "clear stands in an entry of its own")


def _refuse(tree: Tree, path: Path, given: dict[str, Any], keys: tuple[str, ...], reason: str) -> None:
    for key in keys:
        if key in given:
            tree.key_fault((*path, key), f"{reason}; remove it")
