"""Which commands a command has to wait for: those on other engines that it shares bytes with.

Two commands conflict where they touch the same bytes and one of them writes. Their order is that of the list. A queue
keeps the order of its own commands, and waiting is transitive, so few conflicts need a wait: a clock for each command
says up to which command of each engine all are through before it starts (vector clocks: Fidge, Mattern, 1988).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from vamc_py.runstream.program import ENGINES, Access, Collective, Command, Gather, Launch, Transfer

_NUMBER = {engine: number for number, engine in enumerate(ENGINES)}


def touched(command: Command) -> Iterator[tuple[Access, bool, bool]]:
    """(access, whether it reads, whether it writes) of a command."""
    if isinstance(command, Launch):
        for argument in command.arguments:
            yield argument.access, argument.mode != "write", argument.mode != "read"
        return
    yield command.source if isinstance(command, Transfer | Collective) else command.index, True, False
    if isinstance(command, Gather):
        yield command.table, True, False
    yield command.target, False, True


@dataclass
class _Segment:
    """Bytes that have the same history."""

    start: int
    writer: int | None = None
    readers: dict[int, int] = field(default_factory=dict)
    """The last reader since then, by engine."""


class _History:
    """Who touched which bytes of one memory last."""

    def __init__(self) -> None:
        self.segments = [_Segment(0)]
        self.starts = [0]

    def between(self, start: int, stop: int) -> list[_Segment]:
        """The segments of [start, stop), cut where it begins and ends."""
        first = self._cut(start)
        last = self._cut(stop)
        return self.segments[first:last]

    def written(self, start: int, stop: int, number: int) -> None:
        """All of it is `number`'s now."""
        first, last = self._cut(start), self._cut(stop)
        self.segments[first:last] = [_Segment(start, number)]
        self.starts[first:last] = [start]

    def _cut(self, at: int) -> int:
        index = bisect_right(self.starts, at) - 1
        segment = self.segments[index]
        if segment.start == at:
            return index
        self.segments.insert(index + 1, _Segment(at, segment.writer, dict(segment.readers)))
        self.starts.insert(index + 1, at)
        return index + 1


def with_waits(commands: Sequence[Command], registers: Mapping[str, int]) -> tuple[Command, ...]:
    """The commands with the waits that their accesses ask for.

    An access counts from its first byte to its last, wherever its register (below the number given) may lead it.
    """
    histories: dict[str, _History] = {"ddr": _History(), "ssram": _History()}
    clocks: list[list[int]] = []  # for each command: the last command of each engine that is through before its end
    latest: list[int] = [-1] * len(ENGINES)
    ordered: list[Command] = []
    for number, command in enumerate(commands):
        engine = _NUMBER[command.engine]
        before = _conflicts(command, number, histories, registers)
        clock = list(clocks[latest[engine]]) if latest[engine] >= 0 else [-1] * len(ENGINES)
        waits = []
        for other in sorted(before, reverse=True):  # the latest first: it often implies the others
            if clock[_NUMBER[commands[other].engine]] >= other:
                continue
            waits.append(other)
            clock = [max(pair) for pair in zip(clock, clocks[other], strict=True)]
        clock[engine] = number
        clocks.append(clock)
        latest[engine] = number
        ordered.append(command.model_copy(update={"waits": tuple(sorted(waits))}) if waits else command)
    return tuple(ordered)


def _conflicts(
    command: Command, number: int, histories: Mapping[str, _History], registers: Mapping[str, int]
) -> set[int]:
    found: set[int] = set()
    engine = _NUMBER[command.engine]
    accesses = [
        (histories[access.memory], *reach(access, registers), reads, writes)
        for access, reads, writes in touched(command)
    ]
    for history, start, stop, _reads, writes in accesses:
        for segment in history.between(start, stop):
            if segment.writer is not None:
                found.add(segment.writer)
            if writes:
                found.update(segment.readers.values())
    for history, start, stop, reads, writes in accesses:
        if writes:
            history.written(start, stop, number)
        elif reads:
            for segment in history.between(start, stop):
                segment.readers[engine] = number
    return found - {number}


def reach(access: Access, registers: Mapping[str, int]) -> tuple[int, int]:
    """The first byte that an access may touch, and the one behind the last, whatever its register holds."""
    start, stop = access.offset, access.offset + access.span
    if access.at is None:
        return start, stop
    last = registers[access.at.register_name] - 1
    for term in access.at.terms:
        quotient = last // term.divide
        stop += term.factor * (quotient if term.modulo is None else min(quotient, term.modulo - 1))
    return start, stop
