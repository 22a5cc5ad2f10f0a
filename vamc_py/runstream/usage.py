"""What the engines of a die did with their time: busy, idle and what they waited for, and how near the peaks it is."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vamc_py.runstream.costs import matrix_operations
from vamc_py.runstream.program import ENGINES, Engine, Launch
from vamc_py.runstream.timing import NOBODY, DieTimeline, Seconds, Timeline

OTHER_DIES, NOTHING = "other dies", "nothing left"
"""What an engine waits for, where it is no engine of its die."""
_LINEAR = re.compile(r"(_proj|lm_head)(\.weight)?($|\+)")
_NUMBERS = re.compile(r"(?<![A-Za-z0-9_])\d+(?![A-Za-z0-9_])")


def is_linear(label: str) -> bool:
    """Whether a label is that of a linear layer: ``layers.3.mlp.down_proj``, ``lm_head``."""
    return _LINEAR.search(label) is not None


def without_layer(label: str) -> str:
    """The label with ``*`` for the number of the layer."""
    return _NUMBERS.sub("*", label)


@dataclass(frozen=True)
class EngineUsage:
    """Of an engine. Busy and idle seconds add up to those of the stage."""

    commands: int
    busy_s: float
    share: float
    """Of the stage's time."""
    idle_s: dict[str, float]
    """By the engine whose command it waited for, ``other dies`` or ``nothing left``."""


@dataclass(frozen=True)
class MatrixUsage:
    """Of the matrix units, for some of the launches."""

    operations: dict[str, int]
    """By intrinsic, without padding; a multiply-add counts two."""
    ideal_s: float
    """What they would take at the peaks of their types."""
    active_s: float
    """Of the matrix engine with these launches."""
    stalled_s: float
    """Idle before one of these launches, waiting for a command of these labels."""

    @property
    def share(self) -> float:
        """Of the peak, over the time in which these launches were active or waited for their own transfers."""
        return _ratio(self.ideal_s, self.active_s + self.stalled_s)

    @property
    def share_active(self) -> float:
        """Of the peak, over the time in which these launches were active."""
        return _ratio(self.ideal_s, self.active_s)


@dataclass(frozen=True)
class Wait:
    """An operator that kept an engine idle until a command of another one was through."""

    engine: str
    label: str
    """Of what waited, ``*`` for the layer."""
    cause: str
    """The engine, or ``other dies``."""
    cause_label: str
    seconds: float
    times: int


@dataclass(frozen=True)
class Usage:
    """Of one die in one stage."""

    seconds: float
    engines: dict[Engine, EngineUsage]
    ddr_bytes: float
    """That commands asked for, both ways."""
    ddr_burst_bytes: float
    """That DDR moved for them: whole bursts."""
    ddr_share: float
    """Of the peak bandwidth, over the whole stage: ``ddr_bytes``."""
    matrix: MatrixUsage
    matrix_share: float
    """Of the peak over the whole stage."""
    linear: MatrixUsage
    communication_share: float
    """Of the time: collectives in progress."""
    exposed_share: float
    """Of the time: collectives in progress, and no other engine at work."""
    waits: tuple[Wait, ...]
    """The longest first."""


def usage(timeline: Timeline, rank: int, linear: Callable[[str], bool] = is_linear) -> Usage:
    """The usage of a die; ``linear`` tells the labels of linear layers."""
    die, program, device = timeline.dies[rank], timeline.programs[rank], timeline.device
    seconds = timeline.seconds
    number = {engine: index for index, engine in enumerate(ENGINES)}
    engine_of = np.array([number[command.engine] for command in program.commands], dtype=np.int64)
    waits = _waits(timeline, rank)
    spans = {engine: _spans(die, engine_of == index) for engine, index in number.items()}
    engines = {engine: _engine(spans[engine], waits, engine, seconds) for engine in ENGINES}
    others = _union(np.concatenate([spans[engine] for engine in ENGINES if engine != "vccl"]))
    useful = sum(cost.useful_bytes for cost in die.costs)
    matrix = _matrix(timeline, rank, lambda label: True)
    return Usage(
        seconds=seconds,
        engines=engines,
        ddr_bytes=useful,
        ddr_burst_bytes=sum(cost.ddr_bytes for cost in die.costs),
        ddr_share=_ratio(useful, seconds * device.ddr_bytes_s),
        matrix=matrix,
        matrix_share=_ratio(matrix.ideal_s, seconds),
        linear=_matrix(timeline, rank, linear),
        communication_share=engines["vccl"].share,
        exposed_share=_ratio(engines["vccl"].busy_s - _overlap(spans["vccl"], others), seconds),
        waits=waits,
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _spans(die: DieTimeline, chosen: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Seconds:
    """[n, 2] start and end of the chosen commands, in order."""
    return np.stack([die.start[chosen], die.end[chosen]], axis=1)


def _engine(spans: Seconds, waits: tuple[Wait, ...], engine: Engine, seconds: float) -> EngineUsage:
    busy = float((spans[:, 1] - spans[:, 0]).sum())
    idle: dict[str, float] = defaultdict(float)
    for wait in waits:
        if wait.engine == engine:
            idle[wait.cause] += wait.seconds
    if (rest := seconds - float(spans[:, 1].max(initial=0.0))) > 0:
        idle[NOTHING] += rest
    ranked = dict(sorted(idle.items(), key=lambda item: -item[1]))
    return EngineUsage(len(spans), busy, _ratio(busy, seconds), ranked)


def _waits(timeline: Timeline, rank: int) -> tuple[Wait, ...]:
    """All idle times before a command, by engine, operator and cause."""
    die, commands = timeline.dies[rank], timeline.programs[rank].commands
    found: dict[tuple[str, str, str, str], list[float]] = defaultdict(list)
    idle = die.start - die.ready
    for index in np.flatnonzero(idle > 0):
        command, cause = commands[index], int(die.waited_for[index])
        others = float(die.dies_s[index])
        mine = (command.engine, without_layer(command.label))
        if others:
            found[(*mine, OTHER_DIES, "")].append(others)
        if cause != NOBODY:
            blamed = commands[cause]
            found[(*mine, blamed.engine, without_layer(blamed.label))].append(float(idle[index]) - others)
    rows = (Wait(*key, sum(seconds), len(seconds)) for key, seconds in found.items())
    return tuple(sorted(rows, key=lambda wait: -wait.seconds))


def _matrix(timeline: Timeline, rank: int, chosen: Callable[[str], bool]) -> MatrixUsage:
    """Of the launches whose label is chosen."""
    die, program, device = timeline.dies[rank], timeline.programs[rank], timeline.device
    of_kernel = {name: matrix_operations(record) for name, record in program.kernels.items()}
    operations: dict[str, int] = defaultdict(int)
    active = stalled = 0.0
    for index, command in enumerate(program.commands):
        if not isinstance(command, Launch) or command.engine != "matrix" or not chosen(command.label):
            continue
        for intrinsic, count in of_kernel[command.kernel].items():
            operations[intrinsic] += count
        active += float(die.end[index] - die.start[index])
        cause = int(die.waited_for[index])
        if cause != NOBODY and chosen(program.commands[cause].label):
            stalled += float(die.start[index] - die.ready[index])
    peaks = {"mma_f16": device.fp16_flops, "mma_i8": device.int8_ops}
    ideal = sum(count / peaks[intrinsic] for intrinsic, count in operations.items())
    return MatrixUsage(dict(operations), ideal, active, stalled)


def _union(spans: Seconds) -> Seconds:
    """The same times as spans in order that do not touch."""
    merged: list[list[float]] = []
    for start, end in spans[np.argsort(spans[:, 0], kind="stable")]:
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], float(end))
        else:
            merged.append([float(start), float(end)])
    return np.array(merged).reshape(-1, 2)


def _overlap(first: Seconds, second: Seconds) -> float:
    """Seconds that two lists of spans have in common; each is in order and does not touch itself."""
    i = j = 0
    total = 0.0
    while i < len(first) and j < len(second):
        total += max(0.0, min(first[i, 1], second[j, 1]) - max(first[i, 0], second[j, 0]))
        if first[i, 1] < second[j, 1]:
            i += 1
        else:
            j += 1
    return float(total)
