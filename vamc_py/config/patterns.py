"""Patterns of names of weights, as ``frontend.quantize.wide`` has them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

WEIGHT = ".weight"
LM_HEAD = "lm_head.weight"
EMBEDDING = "model.embed_tokens.weight"
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern (``*``, ``?``, ``[…]``) fits the whole name of a tensor, with its ``.weight`` or without."""
    return fnmatchcase(name, pattern) or fnmatchcase(name.removesuffix(WEIGHT), pattern)


def rule_of(rules: Iterable[str], names: Iterable[str]) -> str | None:
    """The type of the first rule ``PATTERN=TYPE`` that fits one of a weight's names; None where none does."""
    names = tuple(names)
    for rule in rules:
        pattern, _, kind = rule.rpartition("=")
        if any(matches(pattern, name) for name in names):
            return kind
    return None


def without_match(pattern: str, names: Iterable[str]) -> str:
    """What to say of a pattern that fits none of the names: which kinds there are, the layers put together."""
    kinds = dict.fromkeys(_NUMBER.sub("*", name.removesuffix(WEIGHT)) for name in names)
    return f"no int8 weight has a name like {pattern!r}; there are {', '.join(kinds) or 'none'}"
