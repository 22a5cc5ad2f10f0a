"""Faults between commands: bytes that two touch, one of them writing, without an event between them; unwritten bytes.

Happens-before by vector clocks (Mattern, Virtual time and global states of distributed systems, 1989). The clock of a
command has for each engine the last command that is through when it starts; as an engine runs its commands in the
order of the list, all earlier ones of that engine are through, too. For each cell of a memory (see ``cells``) the last
command of each engine that wrote it and the last that read it are kept: a command is ordered after all others that
matter if its clock has reached these.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from vamc_py.runstream.cells import Cells
from vamc_py.runstream.command_faults import named
from vamc_py.runstream.layout import READ_ONLY, WRITTEN_BEFORE, Layout
from vamc_py.runstream.program import ENGINES, Access, Command, Memory, Program
from vamc_py.runstream.uses import Use, reach, uses

_QUEUES = {engine: place for place, engine in enumerate(ENGINES)}
_NONE = -1  # no command yet


class _History:
    """What earlier commands did to the cells of one memory."""

    def __init__(self, cells: Cells) -> None:
        self.cells = cells
        # By engine: the last that wrote, then the last that read.
        self.last = np.full((2 * len(ENGINES), cells.count), _NONE, np.int32)
        self.written = np.zeros(cells.count, np.bool_)


def order_faults(program: Program) -> Iterator[str]:
    """One sentence for each fault, in the order of commands, which must have no faults of their own."""
    histories = _histories(program)
    layout = Layout(program.tensors)
    clocks: list[list[int]] = []
    newest = [_NONE] * len(ENGINES)  # of each engine
    for number, command in enumerate(program.commands):
        clock = _clock(command, clocks, newest[_QUEUES[command.engine]], program)
        clocks.append(clock)
        newest[_QUEUES[command.engine]] = number
        touched = [
            (use, histories[use.access.memory]) for use in uses(command) if _changes(use.access, program, layout)
        ]
        for fault in _faults(number, np.array(clock), touched, program):
            yield f"{named(number, command)} {fault}"
    yield from _output_faults(program, histories["ddr"])


def _histories(program: Program) -> dict[Memory, _History]:
    layout = Layout(program.tensors)
    accesses: dict[Memory, set[Access]] = {"ddr": set(), "ssram": set()}
    for command in program.commands:
        for use in uses(command):
            if _changes(use.access, program, layout):
                accesses[use.access.memory].add(use.access)
    histories = {memory: _History(Cells(found, program.registers)) for memory, found in accesses.items()}
    ddr = histories["ddr"]
    for tensor in program.tensors:
        if tensor.role in WRITTEN_BEFORE:
            ddr.written[ddr.cells.within(tensor.offset, tensor.offset + tensor.size)] = True
    return histories


def _changes(access: Access, program: Program, layout: Layout) -> bool:
    """Whether any command may write there: what is only read needs no order."""
    if access.memory == "ssram":
        return True
    tensor = layout.holding(*reach(access, program.registers))
    return tensor is not None and tensor.role not in READ_ONLY


def _clock(command: Command, clocks: list[list[int]], before: int, program: Program) -> list[int]:
    """For each engine the last command that is through when this one starts; ``before`` is the engine's own last."""
    clock = list(clocks[before]) if before != _NONE else [_NONE] * len(ENGINES)
    clock[_QUEUES[command.engine]] = before
    for wait in command.waits:
        clock = [max(pair) for pair in zip(clock, clocks[wait], strict=True)]
        queue = _QUEUES[program.commands[wait].engine]
        clock[queue] = max(clock[queue], wait)
    return clock


def _faults(
    number: int, clock: npt.NDArray[np.int64], touched: list[tuple[Use, _History]], program: Program
) -> Iterator[str]:
    engines = len(ENGINES)
    for use, history in touched:
        index = history.cells.of(use.access)
        if use.reads and not history.written[index].all():
            address = _first(history, index, ~history.written[index])
            yield f"reads {_at(use, address)}, which no earlier command has written"
        # Whoever reads must come after those that wrote, whoever writes also after those that read.
        limits = np.concatenate([clock, clock]) if use.writes else clock
        last = history.last[: len(limits), index]
        early = last.max(axis=1) > limits
        if early.any():
            row = int(early.argmax())
            cell = int(last[row].argmax())
            other = int(last[row, cell])
            verb = "writes" if row < engines else "reads"
            address = _first(history, index, np.arange(last.shape[1]) == cell)
            yield (
                f"{use.verb} {_at(use, address)}, which {named(other, program.commands[other])} {verb}, "
                f"and no event orders the two: it has to wait for command {other}"
            )
    yield from _enter(number, _QUEUES[program.commands[number].engine], touched)


def _enter(number: int, queue: int, touched: list[tuple[Use, _History]]) -> Iterator[str]:
    """Enter the uses into the histories; a fault where a command writes what it touches by another access, too."""
    for use, history in touched:
        if not use.writes:
            history.last[len(ENGINES) + queue, history.cells.of(use.access)] = number
    for use, history in touched:
        if use.writes:
            index = history.cells.of(use.access)
            mine = (history.last[queue, index] == number) | (history.last[len(ENGINES) + queue, index] == number)
            if mine.any():
                yield f"writes {_at(use, _first(history, index, mine))}, which another of its own accesses touches"
            history.last[queue, index] = number
            if use.access.at is None:  # else it may be other bytes that the register points to
                history.written[index] = True


def _output_faults(program: Program, ddr: _History) -> Iterator[str]:
    for tensor in program.tensors:
        if tensor.role == "output":
            index = ddr.cells.within(tensor.offset, tensor.offset + tensor.size)
            there = int(ddr.cells.sizes(index)[ddr.written[index]].sum())
            if there != tensor.size:
                yield f"the commands write {there} of the {tensor.size} bytes of the output {tensor.name}"


def _first(history: _History, index: slice | npt.NDArray[np.int64], which: npt.NDArray[np.bool_]) -> int:
    """The address of the first of these cells of which ``which`` holds."""
    return history.cells.address(int(np.arange(history.cells.count)[index][which][0]))


def _at(use: Use, address: int) -> str:
    return f"{use.access.memory.upper()} at byte {address}"
