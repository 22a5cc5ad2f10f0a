"""What pydantic found wrong, in the words of this project: what is wrong, what to do, did you mean."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic_core import ErrorDetails

from vamc_py.config.config import Config
from vamc_py.config.place import Path, dotted, shorten
from vamc_py.config.section import Section, all_keys, literals, section_of


def path_of(error: ErrorDetails) -> Path:
    """The path of an error in the YAML. Pydantic also names the branches of a union; ours are written ``<so>``."""
    return tuple(part for part in error["loc"] if not (isinstance(part, str) and part in ("<flat>", "<nested>")))


def is_echo(error: ErrorDetails) -> bool:
    """Whether an error only repeats others: pydantic calls a list too short when its elements are wrong."""
    return error["type"] == "too_short" and len(error["input"]) >= error["ctx"]["min_length"]


def message_of(error: ErrorDetails) -> str:
    """What is wrong and what to do, without the place and the path."""
    kind, context, value = error["type"], error.get("ctx", {}), error["input"]
    path = path_of(error)
    if kind == "extra_forbidden":
        return _unknown_key(path)
    if kind == "missing":
        return _missing(path)
    if kind == "literal_error":
        return _wrong_choice(path, value)
    if kind in _MUST_BE:
        return f"must be {_MUST_BE[kind]}, not {describe(value)}{_hint(kind, value)}"
    if kind == "too_long" and path[-1] == "input_ids":
        return f"{context.get('actual_length')} lists; write two, [[prefill lengths], [context lengths]]"
    if kind in _LIMITS:
        return _LIMITS[kind].format_map(_Context(context, value))
    return error["msg"]


def describe(value: object) -> str:
    """A value as a reader of the YAML would name it."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, tuple | list):
        return "a list"
    if isinstance(value, str):
        return f"the text {shorten(value)!r}"
    return f"the number {shorten(repr(value))}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``; did you mean x?`` where one of the known words is near, else nothing."""
    near = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


_EXPONENT = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+")

_MUST_BE = {
    "string_type": "text",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
    "tuple_type": "a list such as [1, 2]",
    "dict_type": "a mapping (its keys indented below it)",
    "model_type": "a mapping (its keys indented below it)",
    "model_attributes_type": "a mapping (its keys indented below it)",
    "none_required": "empty",
}

_LIMITS = {
    "multiple_of": "{value} is not a multiple of {multiple_of}; {below} and {above} are",
    "greater_than": "{value} is too small; it must be above {gt}",
    "greater_than_equal": "{value} is too small; it must be {ge} or more",
    "less_than": "{value} is too large; it must be below {lt}",
    "less_than_equal": "{value} is too large; it must be {le} or less",
    "too_short": "the list is empty; it needs at least {min_length}",
    "too_long": "{actual_length} entries are too many; it takes {max_length}",
    "string_too_short": "must not be empty",
    "string_too_long": "longer than {max_length} characters",
    "string_pattern_mismatch": "{value} has a character that a folder name cannot hold (a slash, a line break, ...)",
}


class _Context(dict[str, Any]):
    def __init__(self, context: Mapping[str, Any], value: object) -> None:
        super().__init__(context, value=shorten(repr(value)))
        if isinstance(value, int) and "multiple_of" in context:
            step = int(context["multiple_of"])
            below = value // step * step
            self["above"] = below + step
            self["below"] = below or below + 2 * step


def _hint(kind: str, value: object) -> str:
    if kind == "string_type" and isinstance(value, int | float):
        return "; put it in quotes if it is meant as text"
    if kind == "float_type" and isinstance(value, str) and _EXPONENT.fullmatch(value):
        return "; YAML's numbers have a point and a sign before the exponent, such as 1.5e+9"
    return ""


def _section_at(path: Path) -> type[Section] | None:
    section: type[Section] | None = Config
    for part in path:
        if section is None:
            return None
        if isinstance(part, str):
            field = section.model_fields.get(part)
            section = section_of(field.annotation) if field else None
    return section


def _unknown_key(path: Path) -> str:
    key = str(path[-1])
    section = _section_at(path[:-1])
    if section is None:
        return "unknown key"
    near = did_you_mean(key, section.model_fields)
    homes = [dotted(home) for home, _ in all_keys(Config) if home[-1] == key]
    if not near and homes:
        return f"unknown key here; it belongs in {' or '.join(homes)}"
    return f"unknown key{near or '; known here: ' + ', '.join(section.model_fields)}"


def _missing(path: Path) -> str:
    if isinstance(path[-1], int):
        return "missing; write [[prefill lengths], [context lengths]]"
    section = _section_at(path[:-1])
    field = section.model_fields.get(path[-1]) if section else None
    meaning = (field.description or "") if field else ""
    return f"missing. {meaning.split('. ')[0].rstrip('.').replace('`', '')}." if meaning else "missing"


def _wrong_choice(path: Path, value: object) -> str:
    choices = choices_at(path)
    if not isinstance(value, str):
        return f"must be one of {', '.join(choices)}, not {describe(value)}"
    return f"{shorten(value)!r} is not one of {', '.join(choices)}{did_you_mean(value, choices)}"


def choices_at(path: Path) -> list[str]:
    """The values that an enumerated key takes."""
    section = _section_at(path[:-1])
    field = section.model_fields.get(str(path[-1])) if section else None
    return literals(field.annotation) if field else []
