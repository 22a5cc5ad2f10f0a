"""Changed lines of a function in hunks, with what all layers have in common shown once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from vamc_py.inspect.layers import BEFORE, BEHIND
from vamc_py.inspect.report_model import DiffHunk, DiffLine, LineKind

_CONTEXT = 1  # unchanged lines shown before and behind changed ones
_GAP = DiffLine(kind="same", text="…")


@dataclass(frozen=True)
class Line:
    """A line of the comparison. Lines of two layers with equal ``shape`` and, in their order, alike ``values`` differ
    in the number of the layer and in names only."""

    kind: LineKind
    text: str
    place: int
    shape: Hashable
    values: tuple[Hashable, ...] = ()


@dataclass(frozen=True)
class _Run:
    """Changed lines that stand together, ``lines`` with context."""

    place: int
    lines: tuple[Line, ...]
    key: Hashable


def hunks(lines: Iterable[Line], title: str = "") -> tuple[DiffHunk, ...]:
    """The changed ones of the lines with context, in the order of the layers; empty when none changed.

    Hunks are titled by their layer, behind ``title`` if there is one.
    """
    by_place = sorted(lines, key=lambda line: line.place)
    runs = [run for _, part in groupby(by_place, key=lambda line: line.place) for run in _runs(_in_blocks(list(part)))]
    has_layers = any(BEFORE < line.place < BEHIND for line in by_place)
    return tuple(_merged(_folded(runs), title, has_layers))


def _in_blocks(lines: Sequence[Line]) -> list[Line]:
    """The lines with removed ones before added ones. A sequence of replacements, each of removed lines followed by
    added ones, stays as it is."""
    ordered: list[Line] = []
    for same, group in groupby(lines, key=lambda line: line.kind == "same"):
        block = list(group)
        if not same and (block[0].kind == "added" or block[-1].kind == "removed"):
            block.sort(key=lambda line: line.kind == "added")
        ordered += block
    return ordered


def _runs(lines: Sequence[Line]) -> Iterator[_Run]:
    """The runs among the lines of one place."""
    changed = [index for index, line in enumerate(lines) if line.kind != "same"]
    start = 0
    seen: dict[Hashable, int] = defaultdict(int)
    for position, index in enumerate(changed):
        if position + 1 < len(changed) and changed[position + 1] - index <= 2 * _CONTEXT + 1:
            continue
        first, last = changed[start], index
        start = position + 1
        shown = lines[max(first - _CONTEXT, 0) : last + 1 + _CONTEXT]
        key = _key(lines[first : last + 1])
        seen[key] += 1
        yield _Run(lines[0].place, tuple(shown), (key, seen[key]))


def _key(lines: Iterable[Line]) -> Hashable:
    """The changed lines up to the names of values, which are numbered as they come."""
    numbers: dict[Hashable, int] = {}
    return tuple(
        (line.kind, line.shape, tuple(numbers.setdefault(value, len(numbers)) for value in line.values))
        for line in lines
        if line.kind != "same"
    )


def _folded(runs: Sequence[_Run]) -> list[tuple[_Run, str]]:
    """The runs without those that an earlier layer has too, and where each of the others is repeated."""
    layers: dict[Hashable, list[int]] = defaultdict(list)
    for run in runs:
        if BEFORE < run.place < BEHIND:
            layers[run.key].append(run.place)
    return [
        (run, _repeats(layers[run.key][1:]))
        for run in runs
        if not BEFORE < run.place < BEHIND or layers[run.key][0] == run.place
    ]


def _merged(folded: Iterable[tuple[_Run, str]], title: str, has_layers: bool) -> Iterator[DiffHunk]:
    """Hunks: the runs of a place that are repeated in the same layers become one, with a mark between them."""
    for (place, repeats), group in groupby(folded, key=lambda item: (item[0].place, item[1])):
        shown: list[DiffLine] = []
        for run, _ in group:
            shown += [_GAP] if shown else []
            shown += [DiffLine(kind=line.kind, text=line.text) for line in run.lines]
        parts = [title, _place_title(place) if has_layers and (place > BEFORE or not title) else ""]
        yield DiffHunk(title=", ".join(part for part in parts if part) or "body", repeats=repeats, lines=tuple(shown))


def _place_title(place: int) -> str:
    return {BEFORE: "before the layers", BEHIND: "behind the layers"}.get(place, f"layer {place}")


def _repeats(layers: Sequence[int]) -> str:
    """``the same in layers 1 to 27``; empty for no layers."""
    if not layers:
        return ""
    ranges: list[list[int]] = []
    for layer in layers:
        if ranges and ranges[-1][-1] == layer - 1:
            ranges[-1].append(layer)
        else:
            ranges.append([layer])
    texts = [f"{part[0]} to {part[-1]}" if len(part) > 2 else " and ".join(map(str, part)) for part in ranges]
    return f"the same in layer{'s' if len(layers) > 1 else ''} {', '.join(texts)}"
