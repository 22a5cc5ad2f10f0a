"""YAML text as plain data in which the place of every key and value is known.

Stricter than YAML where YAML surprises: duplicate keys, tags, merge keys, numbers in other bases and aliases that
contain themselves are faults, and size, depth and number of values are bounded, so that no text can exhaust memory.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import yaml

from vamc_py.config.place import Fault, Path, Place, shorten
from vamc_py.errors import ConfigError

MOST_CHARACTERS = 256 * 1024
MOST_DEPTH = 32
MOST_VALUES = 10_000

_TAG = "tag:yaml.org,2002:"
_TEXT_TAGS = {_TAG + kind for kind in ("str", "timestamp", "value")}
_UNFIT = "a null character or half a surrogate pair, which no file name can hold"
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9_]{0,18})")
_FLOAT = re.compile(r"[-+]?[0-9_]*\.?[0-9_]*([eE][-+]?[0-9]+)?")


@dataclass
class Tree:
    """Plain data (dict, tuple, str, int, float, bool, None) and the place of each value by its path.

    A value that is a mapping or empty has the place of its key. ``faults`` are those found while reading; a value that
    was refused is left out of ``data``, but not out of ``places``.
    """

    data: Any = None
    places: dict[Path, Place] = field(default_factory=dict)
    keys: dict[Path, Place] = field(default_factory=dict)
    refused: set[Path] = field(default_factory=set)
    faults: list[Fault] = field(default_factory=list)

    def place(self, path: Path) -> Place:
        """The place of a value; of what holds it, where the value is absent."""
        while path not in self.places:
            path = path[:-1]
        return self.places[path]

    def fault(self, path: Path, message: str) -> None:
        """Note a fault at the place of the value at ``path``."""
        self.faults.append(Fault(self.place(path), path, message))

    def key_fault(self, path: Path, message: str) -> None:
        """Note a fault at the place of the key itself."""
        self.faults.append(Fault(self.keys.get(path) or self.place(path), path, message))

    def refuse(self, path: Path, message: str) -> type[_Absent]:
        """Note a fault of a value that is left out of ``data``, and return what stands for it."""
        self.fault(path, message)
        self.refused.add(path)
        return _Absent

    def refused_below(self, path: Path) -> bool:
        """Whether the value at ``path``, or one inside it, was left out."""
        return any(refused[: len(path)] == path for refused in self.refused)


class _TooDeepError(Exception):
    def __init__(self, mark: yaml.Mark) -> None:
        self.mark = mark


class _Loader(yaml.SafeLoader):
    """Composes nodes only; refuses depth before Python's recursion limit does."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        if self.depth > MOST_DEPTH:
            raise _TooDeepError(cast(Any, self).peek_event().start_mark)  # PyYAML's stubs leave it untyped
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def read_tree(text: str, place: Callable[[int, int], Place], prefix: Path = ()) -> Tree:
    """Parse YAML text.

    :param place: makes a Place of a line and a column (both from 1).
    :param prefix: the path at which the text stands (for ``--set``, the key before ``=``).
    :raises ConfigError: the text is no YAML, too long or too deep; only the first such fault can be known.
    """

    def refuse(line: int, column: int, message: str) -> ConfigError:
        return ConfigError([str(Fault(place(line, column), prefix, message))])

    if len(text) > MOST_CHARACTERS:
        raise refuse(1, 1, f"longer than {MOST_CHARACTERS} characters: this is no configuration")
    try:
        root = yaml.compose(text, Loader=_Loader)
    except _TooDeepError as error:
        raise refuse(*_position(error.mark), f"nested more than {MOST_DEPTH} levels deep") from None
    except yaml.reader.ReaderError as error:
        line, column = _line_and_column(text, error.position)
        raise refuse(line, column, f"the character U+{ord(text[error.position]):04X} is not allowed in YAML") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = _position(mark) if mark else (1, 1)
        raise refuse(line, column, _syntax_message(error)) from None
    except (ValueError, OverflowError):  # PyYAML converts "\UFFFFFFFF" and "%YAML 99...9.1" unchecked
        raise refuse(1, 1, "not YAML: a \\U escape or a %YAML version is out of range") from None
    reader = _Reader(place)
    reader.tree.places[prefix] = place(1, 1)
    value = None if root is None else reader.value(root, prefix, place(1, 1))
    reader.tree.data = None if value is _Absent else value
    return reader.tree


def _position(mark: yaml.Mark) -> tuple[int, int]:
    return mark.line + 1, mark.column + 1


def _line_and_column(text: str, position: int) -> tuple[int, int]:
    before = text[:position]
    return before.count("\n") + 1, position - (before.rfind("\n") + 1) + 1


def _syntax_message(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or error.context or "not YAML"
    if r"\t" in problem:
        return "a tab: YAML indents with spaces"
    if "expected a single document" in (error.context or ""):
        return "a second document begins here: keep one configuration in a file"
    where = f", {error.context}" if error.context and error.problem else ""
    return f"not YAML: {shorten(problem + where, 160)}; check the indentation, quotes and colons near here"


class _Absent:
    """Stands for a faulty value, which its parent leaves out."""


class _Reader:
    """Walks composed nodes once; every alias is walked again, up to MOST_VALUES in all."""

    def __init__(self, place: Callable[[int, int], Place]) -> None:
        self.tree = Tree()
        self._place = place
        self._open: set[int] = set()
        self._values = 0

    def value(self, node: yaml.Node, path: Path, key_place: Place) -> Any:
        own = self._place(*_position(node.start_mark))
        empty = isinstance(node, yaml.ScalarNode) and not node.value
        self.tree.places[path] = key_place if empty or isinstance(node, yaml.MappingNode) else own
        self._values += 1
        if self._values > MOST_VALUES:
            message = f"more than {MOST_VALUES} values: this is no configuration (aliases count each time)"
            raise ConfigError([str(Fault(own, (), message))])
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if id(node) in self._open:
            return self.tree.refuse(path, "an alias that contains itself")
        self._open.add(id(node))
        result = self._mapping(node, path) if isinstance(node, yaml.MappingNode) else self._sequence(node, path)
        self._open.discard(id(node))
        return result

    def _sequence(self, node: yaml.Node, path: Path) -> Any:
        if node.tag != _TAG + "seq":
            return self.tree.refuse(path, f"the tag {shorten(node.tag)} is not used here; remove it")
        values = [
            self.value(part, (*path, index), self._place(*_position(part.start_mark)))
            for index, part in enumerate(node.value)
        ]
        return tuple(None if value is _Absent else value for value in values)  # the places count on the index

    def _mapping(self, node: yaml.Node, path: Path) -> Any:
        if node.tag != _TAG + "map":
            return self.tree.refuse(path, f"the tag {shorten(node.tag)} is not used here; remove it")
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            place = self._place(*_position(key_node.start_mark))
            key = self._key(key_node, path, place)
            if key is None:
                continue
            inner = (*path, key)
            if inner in self.tree.places:
                first = self.tree.places[inner]
                where = f" (first at line {first.line})" if first.line else ""
                self.tree.faults.append(Fault(place, inner, f"written twice{where}; keep one"))
                continue
            self.tree.keys[inner] = place
            value = self.value(value_node, inner, place)
            if value is not _Absent:
                result[key] = value
        return result

    def _key(self, node: yaml.Node, path: Path, place: Place) -> str | None:
        message = ""
        if not isinstance(node, yaml.ScalarNode):
            message = "a key must be plain text, not a list or a mapping"
        elif node.tag == _TAG + "merge":
            message = "merge keys (<<) are not read here; write the keys out"
        elif not _fit(node.value):
            message = f"a key with {_UNFIT}"
        if message:
            self.tree.faults.append(Fault(place, path, message))
            return None
        return str(node.value)

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        text, kind = node.value, node.tag.removeprefix(_TAG)
        if kind == "null":
            return None
        if node.tag in _TEXT_TAGS or path[:2] == ("workspace", "pyenv"):  # a version 4.50 is no number
            return text if _fit(text) else self.tree.refuse(path, _UNFIT)
        if kind == "bool" and text.lower() in yaml.SafeLoader.bool_values:
            return yaml.SafeLoader.bool_values[text.lower()]
        if kind == "int" and _DECIMAL.fullmatch(text):
            return int(text.replace("_", ""))
        if kind == "float" and _FLOAT.fullmatch(text):
            return self._float(text, path)
        if kind in ("int", "float"):
            message = f"{shorten(text)!r} is a number to some readers of YAML only"
            return self.tree.refuse(path, f"{message}; write it in decimal digits, or in quotes if it is text")
        return self.tree.refuse(path, f"the tag {shorten(node.tag)} is not used here; remove it")

    def _float(self, text: str, path: Path) -> Any:
        try:
            number = float(text.replace("_", ""))
        except ValueError:
            number = math.nan
        return number if math.isfinite(number) else self.tree.refuse(path, f"{shorten(text)!r} is not a finite number")


def _fit(text: str) -> bool:
    return not any(char == "\0" or "\ud800" <= char <= "\udfff" for char in text)
