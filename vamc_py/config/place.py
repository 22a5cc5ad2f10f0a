"""Where a value was written, and how a fault at that place reads."""

from __future__ import annotations

from dataclasses import dataclass

Path = tuple[str | int, ...]  # keys and list indices from the top of the YAML


@dataclass(frozen=True, order=True)
class Place:
    """A position in a file, or a whole ``--set`` (line 0)."""

    line: int  # from 1
    column: int  # from 1
    source: str  # the file's name, or "--set key=value"

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong. An empty path: the file as a whole, or its syntax."""

    place: Place
    path: Path
    message: str

    def __str__(self) -> str:
        where = f"{dotted(self.path)}: " if self.path else ""
        return f"{self.place}: {where}{self.message}"


def dotted(path: Path) -> str:
    """``("frontend", "shape", "input_ids", 0)`` as ``frontend.shape.input_ids[0]``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{shorten(part)}" for part in path)
    return text.removeprefix(".")


def shorten(text: str, limit: int = 60) -> str:
    """The text on one line, cut to ``limit`` characters."""
    printable = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
    return printable if len(printable) <= limit else printable[: limit - 3] + "..."


def in_order(faults: list[Fault]) -> list[str]:
    """The faults as lines: the file's from top to bottom, then those of ``--set``."""
    return [str(fault) for fault in sorted(faults, key=lambda fault: (fault.place.line == 0, fault.place))]
