"""Changes that a slip of the hand, an editor or a disk makes to a YAML file."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

Mutation = Callable[[bytes, random.Random], bytes]

VALUES = [
    *(
        "",
        "null",
        "~",
        "-1",
        "0",
        "1e400",
        "010",
        "1:30",
        "0x_",
        ".nan",
        "9" * 6000,
        "true",
        "no",
        "2024-13-45",
        "w8a61",
    ),
    *(
        "[]",
        "{}",
        "[[16], []]",
        "[[16],[16],[16]]",
        "[" * 60,
        "{" * 60,
        "- x",
        "? x",
        "|",
        ">-",
        "'",
        "@",
        "%",
        "`",
        "=",
    ),
    *("*a", "&a [*a]", "<<", "!!binary x", "!x y", "!!int x", "!!bool x", "!!float x", '"\\ud800"', "\x00", "🦙"),
]


def change_bytes(data: bytes, rng: random.Random) -> bytes:
    position = rng.randrange(len(data))
    return data[:position] + rng.randbytes(rng.randint(0, 3)) + data[position + rng.randint(0, 3) :]


def change_lines(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    first, second = rng.randrange(len(lines)), rng.randrange(len(lines))
    choice = rng.randrange(4)
    if choice == 0:
        del lines[first]
    elif choice == 1:
        lines.insert(first, lines[second])
    elif choice == 2:
        lines[first], lines[second] = lines[second], lines[first]
    else:
        lines = lines[:first]
    return b"\n".join(lines)


def _pairs(text: str) -> list[re.Match[str]]:
    return list(re.finditer(r"^( *)([a-z_]+):(.*)$", text, re.MULTILINE))


def change_key(data: bytes, rng: random.Random) -> bytes:
    text = data.decode()
    key = rng.choice(_pairs(text))
    position = rng.randrange(key.start(2), key.end(2))
    return (text[:position] + rng.choice(["", "x", "_", " ", ":", "A", "é", "#", "."]) + text[position + 1 :]).encode()


def change_value(data: bytes, rng: random.Random) -> bytes:
    text = data.decode()
    pair = rng.choice(_pairs(text))
    return (text[: pair.start(3)] + " " + rng.choice(VALUES) + text[pair.end(3) :]).encode()


def change_indent(data: bytes, rng: random.Random) -> bytes:
    text = data.decode()
    pair = rng.choice(_pairs(text))
    return (text[: pair.start(1)] + rng.choice(["", " ", "   ", "\t", " " * 6, "- "]) + text[pair.end(1) :]).encode()


MUTATIONS: list[Mutation] = [change_bytes, change_lines, change_key, change_value, change_indent]
