"""Typed reading of a checkpoint's JSON config: a value of the expected kind and size, or an error naming the key."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Set
from typing import Any, NoReturn

from vamc_py.errors import CheckpointError


class Keys:
    """A JSON object of a checkpoint. Every fault becomes a CheckpointError ``file: section.key: what is wrong``.

    A key that is null counts as absent, as it does for transformers.
    """

    def __init__(self, values: Mapping[str, Any], source: str, section: str = "") -> None:
        self.source = source
        self._values = values
        self._section = section

    def get(self, key: str) -> Any:
        return self._values.get(key)

    def refuse(self, key: str, why: str) -> NoReturn:
        path = f"{self._section}.{key}" if self._section else key
        raise CheckpointError(f"{self.source}: {path}: {why}")

    def count(self, key: str, most: int, *, default: int | None = None, least: int = 1) -> int:
        """A whole number in [least, most]."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            self.refuse(key, f"a whole number is expected, not {value!r}")
        if not least <= value <= most:
            self.refuse(key, f"{value} is out of range; {least} to {most} is expected")
        return value

    def number(self, key: str, *, least: float, most: float, default: float | None = None) -> float:
        """A finite number in [least, most]."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.refuse(key, f"a number is expected, not {value!r}")
        if not (math.isfinite(value) and least <= value <= most):
            self.refuse(key, f"{value} is out of range; {least:g} to {most:g} is expected")
        return float(value)

    def optional_number(self, key: str, *, least: float, most: float) -> float | None:
        return None if self.get(key) is None else self.number(key, least=least, most=most)

    def flag(self, key: str, *, default: bool) -> bool:
        value = self._value(key, default)
        if not isinstance(value, bool):
            self.refuse(key, f"true or false is expected, not {value!r}")
        return value

    def choice(self, key: str, known: tuple[str, ...], *, default: str | None = None) -> str:
        value = self._value(key, default)
        if not isinstance(value, str) or value not in known:
            self.refuse(key, f"{value!r} is not supported; known: {', '.join(known)}")
        return value

    def text(self, key: str, *, default: str | None = None) -> str:
        value = self._value(key, default)
        if not isinstance(value, str):
            self.refuse(key, f"a text is expected, not {value!r}")
        return value

    def section(self, key: str) -> Keys:
        """A JSON object as keys of its own; empty where the key is absent."""
        return Keys(self.mapping(key), self.source, f"{self._section}.{key}" if self._section else key)

    def mapping(self, key: str) -> Mapping[str, Any]:
        """A JSON object; empty where the key is absent."""
        value = self._value(key, {})
        if not isinstance(value, Mapping):
            self.refuse(key, f"an object is expected, not {value!r}")
        return value

    def only(self, known: Set[str], why: str) -> None:
        """Refuses the first key that is not ``known`` and not null."""
        for key in (key for key, value in self._values.items() if key not in known and value is not None):
            close = difflib.get_close_matches(key, known, 1)
            self.refuse(key, why + (f" (did you mean {close[0]}?)" if close else ""))

    def _value(self, key: str, default: Any) -> Any:
        value = self.get(key)
        if value is not None:
            return value
        if default is None:
            self.refuse(key, "the key is missing")
        return default
