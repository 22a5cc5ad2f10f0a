"""How long the programs of all dies take on a device: discrete events, without any arithmetic.

An engine runs its queue in order; a command starts when the one before it in its queue and those that it waits for are
through. Transfers in flight share their die's DDR bandwidth evenly; what one of them cannot use, since its engine is
slower than its share, the others get. A collective starts when all dies have come to it. Dies whose programs cost the
same, command by command, are simulated once.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from vamc_py.errors import UserError
from vamc_py.runstream.costs import Cost, costs
from vamc_py.runstream.program import ENGINES, Collective, Program
from vamc_py.target.vacc.device import Device

Seconds = npt.NDArray[np.float64]
_NUMBER = {engine: number for number, engine in enumerate(ENGINES)}
_VCCL = _NUMBER["vccl"]

NOBODY = -1
"""What a command waited for that started as soon as its engine was free."""


@dataclass(frozen=True)
class DieTimeline:
    """When each command of a die ran, in seconds from the start, by its number."""

    start: Seconds
    end: Seconds
    ready: Seconds
    """When the engine was free for it."""
    waited_for: npt.NDArray[np.int64]
    """The last of the commands that it waited for after its engine was free, else NOBODY."""
    dies_s: Seconds
    """How long a collective waited for other dies, after its own could start."""
    costs: tuple[Cost, ...]


@dataclass(frozen=True)
class Timeline:
    """The programs of one stage, timed."""

    device: Device
    programs: tuple[Program, ...]
    """One for each rank, in order."""
    dies: tuple[DieTimeline, ...]
    """One for each rank; dies whose programs cost the same have the same object."""
    seconds: float


def simulate(programs: Sequence[Program], device: Device) -> Timeline:
    """Time the programs of all ranks of one stage.

    :raises UserError: they are not those of all ranks, of one stage, or they cannot end: a command waits for one that
        comes after it, or the dies do not run the same collectives.
    """
    ordered = tuple(sorted(programs, key=lambda program: program.rank))
    _check_together(ordered)
    kinds: dict[tuple[object, ...], _Die] = {}
    of_rank: list[_Die] = []
    for program in ordered:
        cost = costs(program.commands, program.kernels, program.ranks, device)
        numbers = [_NUMBER[command.engine] for command in program.commands]
        waits = [command.waits for command in program.commands]
        exchanges = [_exchange(command) for command in program.commands if isinstance(command, Collective)]
        key = (tuple(cost), tuple(numbers), tuple(waits), tuple(exchanges))
        if key not in kinds:
            kinds[key] = _Die(program, tuple(cost), numbers, waits, device.ddr_bytes_s)
        of_rank.append(kinds[key])
    _Events(list(kinds.values())).run()
    timelines = {id(die): die.timeline() for die in kinds.values()}
    dies = tuple(timelines[id(die)] for die in of_rank)
    return Timeline(device, ordered, dies, max((float(die.end.max(initial=0.0)) for die in dies), default=0.0))


def _exchange(command: Collective) -> tuple[object, ...]:
    """What the dies that meet for a collective have to agree on."""
    return command.kind, command.dtype, command.source.bytes, command.target.bytes


def _check_together(programs: Sequence[Program]) -> None:
    if not programs:
        raise UserError("there is no program to simulate")
    first = programs[0]
    if [program.rank for program in programs] != list(range(first.ranks)):
        ranks = ", ".join(str(program.rank) for program in programs)
        raise UserError(
            f"{first.ranks} dies take part, ranks 0 to {first.ranks - 1}, and there are programs of {ranks}"
        )
    for program in programs:
        if (program.stage, program.ranks) != (first.stage, first.ranks):
            raise UserError(
                f"rank {program.rank} has a program of {program.stage} for {program.ranks} dies, and rank 0 one of "
                f"{first.stage} for {first.ranks}"
            )
        for number, command in enumerate(program.commands):
            late = [other for other in command.waits if not 0 <= other < number]
            if late:
                raise UserError(
                    f"rank {program.rank}: command {number} ({command.label}) waits for command {late[0]}, which is "
                    "not before it"
                )


@dataclass
class _Flow:
    """A transfer behind its latency."""

    number: int
    left: float  # bytes
    most: float  # bytes a second
    rate: float = 0.0


@dataclass
class _Die:
    """The state of a die's queues and of its DDR."""

    program: Program
    costs: tuple[Cost, ...]
    engine: list[int]
    waits: list[tuple[int, ...]]
    bandwidth: float
    queues: list[list[int]] = field(default_factory=list)
    heads: list[int] = field(default_factory=lambda: [0] * len(ENGINES))
    busy: list[bool] = field(default_factory=lambda: [False] * len(ENGINES))
    flows: list[_Flow] = field(default_factory=list)
    flows_at: float = 0.0
    version: int = 0

    def __post_init__(self) -> None:
        count = len(self.costs)
        self.start, self.end, self.ready = [math.nan] * count, [math.nan] * count, [0.0] * count
        self.waited_for = [NOBODY] * count
        self.dies_s = [0.0] * count
        self.done = bytearray(count)
        self.free_since = [0.0] * len(ENGINES)
        self.queues = [[] for _ in ENGINES]
        for number, engine in enumerate(self.engine):
            self.queues[engine].append(number)

    def next_of(self, engine: int) -> int | None:
        """The command that an engine starts now, if it may."""
        if self.busy[engine] or self.heads[engine] == len(self.queues[engine]):
            return None
        number = self.queues[engine][self.heads[engine]]
        return number if all(self.done[other] for other in self.waits[number]) else None

    def take(self, engine: int, number: int, now: float) -> None:
        """Let an engine begin its next command."""
        self.busy[engine], self.heads[engine] = True, self.heads[engine] + 1
        self.start[number], self.ready[number] = now, self.free_since[engine]
        if now > self.ready[number]:
            self.waited_for[number] = max(self.waits[number], key=lambda other: (self.end[other], other))

    def finish(self, number: int, now: float) -> None:
        """Note the end of a command."""
        engine = self.engine[number]
        self.end[number], self.busy[engine], self.free_since[engine] = now, False, now
        self.done[number] = 1

    def move(self, now: float) -> None:
        """Let the flows go on up to now."""
        for flow in self.flows:
            flow.left = max(0.0, flow.left - flow.rate * (now - self.flows_at))
        self.flows_at = now

    def share(self) -> None:
        """Share the bandwidth evenly; what a flow cannot take goes to those that can."""
        left = self.bandwidth
        for place, flow in enumerate(sorted(self.flows, key=lambda flow: flow.most)):
            flow.rate = min(flow.most, left / (len(self.flows) - place))
            left -= flow.rate
        self.version += 1

    def timeline(self) -> DieTimeline:
        """What has been noted."""
        start, end, ready, dies_s = (np.array(v) for v in (self.start, self.end, self.ready, self.dies_s))
        return DieTimeline(start, end, ready, np.array(self.waited_for, dtype=np.int64), dies_s, self.costs)


_FINISHED, _FLOWS, _FLOW_DONE = 0, 1, 2


class _Events:
    """The clock of all dies. An event: time, order, die, what, number of a command (or version of the flows)."""

    def __init__(self, dies: Sequence[_Die]) -> None:
        self.dies = dies
        self.heap: list[tuple[float, int, int, int, int]] = []
        self.order = 0
        self.waiting: dict[int, tuple[int, float]] = {}
        """The dies that are at a collective: its command, and since when."""

    def run(self) -> None:
        """Until every command of every die is through."""
        for place in range(len(self.dies)):
            self.start_ready(place, 0.0)
        while self.heap:
            now, _, place, what, number = heapq.heappop(self.heap)
            die = self.dies[place]
            if what == _FINISHED:
                die.finish(number, now)
                self.start_ready(place, now)
            elif what == _FLOWS:
                die.move(now)
                cost = die.costs[number]
                die.flows.append(_Flow(number, cost.ddr_bytes, cost.ddr_bytes_s))
                self.share(place)
            elif number == die.version:
                die.move(now)
                done = min(die.flows, key=lambda flow: flow.left / flow.rate)
                die.flows.remove(done)
                die.finish(done.number, now)
                self.share(place)
                self.start_ready(place, now)
        self.check_end()

    def push(self, time: float, place: int, what: int, number: int) -> None:
        self.order += 1
        heapq.heappush(self.heap, (time, self.order, place, what, number))

    def share(self, place: int) -> None:
        die = self.dies[place]
        die.share()
        if die.flows:
            soonest = min(flow.left / flow.rate for flow in die.flows)
            self.push(die.flows_at + soonest, place, _FLOW_DONE, die.version)

    def start_ready(self, place: int, now: float) -> None:
        """Start what may start on a die."""
        die = self.dies[place]
        for engine in range(len(ENGINES)):
            number = die.next_of(engine)
            if number is None:
                continue
            die.take(engine, number, now)
            cost = die.costs[number]
            if cost.together:
                self.waiting[place] = (number, now)
                self.meet(now)
            else:
                self.push(now + cost.seconds, place, _FLOWS if cost.ddr_bytes else _FINISHED, number)

    def meet(self, now: float) -> None:
        """Start the collective that all dies have come to."""
        if len(self.waiting) < len(self.dies):
            return
        self.check_same()
        for place, (number, since) in self.waiting.items():
            die = self.dies[place]
            die.start[number], die.dies_s[number] = now, now - since
            self.push(now + die.costs[number].seconds, place, _FINISHED, number)
        self.waiting = {}

    def check_same(self) -> None:
        """UserError where the collectives that the dies are at differ."""
        shapes: dict[tuple[object, ...], str] = {}
        for place, (number, _) in self.waiting.items():
            program = self.dies[place].program
            command = program.commands[number]
            assert isinstance(command, Collective)
            what = f"{command.kind} of {command.source.bytes} bytes of {command.dtype}"
            shapes[_exchange(command)] = f"rank {program.rank}, command {number} ({command.label}): {what}"
        if len(shapes) > 1:
            raise UserError(f"the dies meet for different collectives: {'; '.join(shapes.values())}")

    def check_end(self) -> None:
        """UserError where a die is not through, since another one has fewer collectives."""
        for place, (number, _) in self.waiting.items():
            program = self.dies[place].program
            missing = next(other for index, other in enumerate(self.dies) if index not in self.waiting)
            raise UserError(
                f"rank {program.rank}: command {number} ({program.commands[number].label}) is a collective that rank "
                f"{missing.program.rank} does not take part in: its program has fewer of them"
            )
