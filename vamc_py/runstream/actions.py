"""What each command does on a die, as a function that is made once and called in every step.

Kernels do all arithmetic; a transfer and a gather move bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from vamc_py.errors import ArtifactError
from vamc_py.runstream.memory import AccessError, StageMemory, copy
from vamc_py.runstream.program import Collective, Gather, Launch, Program, Transfer
from vamc_py.runstream.uses import Use, extremes, term_sums, uses

Registers = Mapping[str, int]
Action = Callable[[Registers], None]


class Kernels(Protocol):
    """Host functions by name: a dict, or the module of mod.so."""

    def __getitem__(self, name: str, /) -> Callable[..., Any]: ...


class Exchange:
    """A collective's two sides on one die."""

    def __init__(self, stage: StageMemory, command: Collective) -> None:
        self.command = command
        self.source = stage.place(Use(command.source, True, False))
        self.target = stage.place(Use(command.target, False, True))


def action_of(command: Transfer | Gather | Launch, program: Program, stage: StageMemory, kernels: Kernels) -> Action:
    """The function that does what the command says. AccessError, then or when it is called, where that is forbidden."""
    if isinstance(command, Transfer):
        return _transfer(command, stage)
    if isinstance(command, Gather):
        return _gather(command, stage)
    return _launch(command, program, stage, kernels)


def _transfer(command: Transfer, stage: StageMemory) -> Action:
    source = stage.place(Use(command.source, True, False))
    target = stage.place(Use(command.target, False, True))
    if source.bytes != target.bytes:
        raise AccessError(f"reads {source.bytes} bytes and writes {target.bytes}")
    if source.dynamic or target.dynamic:

        def move(registers: Registers) -> None:
            source.check()
            copy(target, source, registers)
            target.mark()

        return move
    size = math.gcd(source.row, target.row)
    into, out_of = target.chunks({}, size), source.chunks({}, size)

    def move_fixed(_registers: Registers) -> None:
        source.check()
        into[...] = out_of.reshape(into.shape)  # in the step: a copy, where both sides have rows of their own
        target.mark()

    return move_fixed


def _gather(command: Gather, stage: StageMemory) -> Action:
    index, table, target = (stage.place(use) for use in uses(command))
    low, _ = extremes(command.entry, command.entries)
    whole = command.table.rows == 1 or command.table.stride == command.table.size
    size = command.table.bytes if whole else command.table.size  # of a piece of an entry
    pieces = np.arange(command.table.bytes // size) * command.table.stride
    if target.bytes != index.bytes // 4 * command.table.bytes:
        raise AccessError(f"gathers {index.bytes // 4 * command.table.bytes} bytes and writes {target.bytes}")

    def gather(registers: Registers) -> None:
        index.check()
        table.check()
        entries = index.flat(registers, "int32").astype(np.int64) - command.first
        there = (entries >= 0) & (entries < command.entries)
        begins = term_sums(command.entry, entries[there]) - low
        rows = np.zeros((len(entries), len(pieces)), f"V{size}")
        rows[there] = table.windows(registers, size)[begins[:, None] + pieces]
        target.write(registers, rows.reshape(-1).view(np.uint8))

    return gather


def _launch(command: Launch, program: Program, stage: StageMemory, kernels: Kernels) -> Action:
    record = program.kernels[command.kernel]
    function = _kernel(kernels, command.kernel, program)
    places = [stage.place(use) for use in uses(command)]

    def buffers(registers: Registers) -> list[Any]:
        return [
            place.buffer(registers, wanted.dtype, wanted.elements)
            for place, wanted in zip(places, record.arguments, strict=True)
        ]

    fixed = None if any(place.dynamic for place in places) else buffers({})

    def run(registers: Registers) -> None:
        for place in places:
            place.check()
        tensors = fixed if fixed is not None else buffers(registers)
        function(*tensors, *(registers[one] if isinstance(one, str) else one for one in command.scalars))
        for place in places:
            place.mark()

    return run


def _kernel(kernels: Kernels, name: str, program: Program) -> Callable[..., Any]:
    try:
        return kernels[name]
    except (AttributeError, KeyError) as error:  # of a module, of a dict
        where = f"the {program.stage} of rank {program.rank}"
        raise ArtifactError(
            f"mod.so has no kernel {name}, which {where} launches; compile the artifact again"
        ) from error
