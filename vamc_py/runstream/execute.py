"""Execute runstreams: what the dies of a group compute in one step, exactly as the kernels and the arithmetic say.

Functional only: commands run one after another in the order of their lists, which is one of the orders that the queues
and events allow; as the program has no unordered access to the same bytes, each allowed order gives the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vamc_py.runstream.actions import Action, Exchange, Kernels, action_of
from vamc_py.runstream.check import check_ranks
from vamc_py.runstream.command_faults import named
from vamc_py.runstream.memory import AccessError, Bytes, DeviceFault, DieMemory, StageMemory
from vamc_py.runstream.program import Collective, Program, Stage


class Die:
    """One simulated die: its memory, and the host functions of its rank's kernels.

    Where the kernels of the two stages have the same names, make a die for each over one memory. A die reaches its own
    memory only; what others have comes by collectives.
    """

    def __init__(self, memory: DieMemory, kernels: Kernels) -> None:
        """``kernels`` maps names to functions of flat DLPack tensors and ints: ``library.load_module(mod.so)``."""
        self.memory = memory
        self.kernels = kernels
        self._bound: dict[Stage, BoundProgram] = {}

    def bound(self, program: Program) -> BoundProgram:
        """The program on this die; made once, for as long as the stage keeps its program."""
        bound = self._bound.get(program.stage)
        if bound is None or bound.program is not program:
            bound = self._bound[program.stage] = BoundProgram(self, program)
        return bound


class BoundProgram:
    """A program on a die: an action for each command, made when it is first run and kept for later steps."""

    def __init__(self, die: Die, program: Program) -> None:
        self.program = program
        self._memory = StageMemory(die.memory, program)
        self._kernels = die.kernels
        self._actions: list[Action | Exchange | None] = [None] * len(program.commands)
        self._registers: Mapping[str, int] = {}
        self._next = 0

    def begin(self, inputs: Mapping[str, npt.NDArray[Any]], registers: Mapping[str, int]) -> None:
        """Start a step. ValueError for inputs or registers that are not the program's."""
        _check_registers(registers, self.program.registers)
        wanted = {tensor.name: tensor for tensor in self.program.tensors if tensor.role == "input"}
        if inputs.keys() != wanted.keys():
            raise ValueError(f"inputs {sorted(inputs)} instead of {sorted(wanted)}")
        for name, tensor in wanted.items():
            if (got := inputs[name]).dtype != tensor.dtype or got.shape != tensor.shape:
                raise ValueError(
                    f"{name}: {got.dtype} {list(got.shape)} instead of {tensor.dtype} {list(tensor.shape)}"
                )
            self._memory.tensor(name)[...] = got
        self._registers = dict(registers)
        self._next = 0
        self._memory.begin()

    def run_to_exchange(self) -> Exchange | None:
        """Run the commands up to the next collective, which is returned; None at the end. DeviceFault."""
        actions, registers = self._actions, self._registers
        for number in range(self._next, len(actions)):
            try:
                action = actions[number] or self._bind(number)
                if isinstance(action, Exchange):
                    self._next = number + 1
                    return action
                action(registers)
            except AccessError as fault:
                raise self.fault(str(fault), number, fault.address) from fault
            except Exception as error:
                error.add_note(f"in {named(number, self.program.commands[number])} of rank {self.program.rank}")
                raise
        self._next = len(actions)
        return None

    def send(self, exchange: Exchange) -> Bytes:
        """A copy of what this die gives to an exchange."""
        try:
            return exchange.source.read(self._registers)
        except AccessError as fault:
            raise self.fault(str(fault), self.last, fault.address) from fault

    def receive(self, exchange: Exchange, data: Bytes) -> None:
        """Write what comes out of an exchange."""
        try:
            if exchange.target.bytes != len(data):
                raise AccessError(f"receives {len(data)} bytes and writes {exchange.target.bytes}")
            exchange.target.write(self._registers, data)
        except AccessError as fault:
            raise self.fault(str(fault), self.last, fault.address) from fault

    def logits(self) -> npt.NDArray[np.float32]:
        """A copy of the output, float32 [vocab]; DeviceFault where the commands have not written it."""
        try:
            return self._memory.output("logits")
        except AccessError as fault:
            raise self.fault(str(fault), self.last) from fault

    def fault(self, what: str, number: int, address: int | None = None) -> DeviceFault:
        """The error for a command of this program."""
        stage, rank = self.program.stage, self.program.rank
        label = self.program.commands[number].label if self.program.commands else ""
        return DeviceFault(what, stage=stage, rank=rank, number=number, label=label, address=address)

    @property
    def last(self) -> int:
        """The number of the command that was run last."""
        return max(self._next - 1, 0)

    def _bind(self, number: int) -> Action | Exchange:
        command = self.program.commands[number]
        if isinstance(command, Collective):
            action: Action | Exchange = Exchange(self._memory, command)
        else:
            action = action_of(command, self.program, self._memory, self._kernels)
        self._actions[number] = action
        return action


def run_stage(
    dies: Sequence[Die],
    programs: Sequence[Program],
    inputs: Mapping[str, npt.NDArray[Any]],
    registers: Mapping[str, int],
) -> npt.NDArray[np.float32]:
    """One step of all ranks, in the order of ranks; logits float32 [vocab], which all dies agree on.

    ``inputs``: tokens int32 [tokens], for every die. ``registers``: position of the first token, and row of the token
    whose logits are wanted. Raises DeviceFault where a command does what the device forbids, ArtifactError for a
    missing rank or kernel, ValueError for inputs and registers that are not the programs'.
    """
    check_ranks(programs)
    if len(dies) != len(programs):
        raise ValueError(f"{len(dies)} dies for {len(programs)} programs")
    runs = [die.bound(program) for die, program in zip(dies, programs, strict=True)]
    for run in runs:
        run.begin(inputs, registers)
    while (exchanges := _meet(runs)) is not None:
        _exchange(runs, exchanges)
    logits = runs[0].logits()
    for run in runs[1:]:
        if run.logits().tobytes() != logits.tobytes():
            raise run.fault("is the last one, and this die's logits are not those of rank 0", run.last)
    return logits


def _check_registers(registers: Mapping[str, int], limits: Mapping[str, int]) -> None:
    if registers.keys() != limits.keys():
        raise ValueError(f"registers {sorted(registers)} instead of {sorted(limits)}")
    for name, value in registers.items():
        if not 0 <= value < limits[name]:
            raise ValueError(f"register {name} is {value}: it must be from 0 to {limits[name] - 1}")


def _meet(runs: Sequence[BoundProgram]) -> list[Exchange] | None:
    """Run all ranks to their next exchange, which must be the same one; None where all are at their end."""
    reached = [run.run_to_exchange() for run in runs]
    exchanges = [exchange for exchange in reached if exchange is not None]
    if not exchanges:
        return None
    for run, exchange in zip(runs, reached, strict=True):
        if exchange is None:
            raise run.fault("is the last one, and other ranks wait for an exchange", run.last)
        first, own = exchanges[0].command, exchange.command
        if (own.kind, own.dtype, own.source.bytes) != (first.kind, first.dtype, first.source.bytes):
            raise run.fault(
                f"is {own.kind} of {own.source.bytes} bytes of {own.dtype}, and another rank has "
                f"{first.kind} of {first.source.bytes} bytes of {first.dtype}",
                run.last,
            )
    return exchanges


def _exchange(runs: Sequence[BoundProgram], exchanges: Sequence[Exchange]) -> None:
    """As ``program.Collective`` defines it. The only place where bytes go from one die to another."""
    sent = [run.send(exchange) for run, exchange in zip(runs, exchanges, strict=True)]
    command = exchanges[0].command
    if command.kind == "all_reduce":
        result = _added([data.view(command.dtype) for data in sent])
    else:
        result = np.concatenate([data.reshape(command.source.rows, -1) for data in sent], axis=1).reshape(-1)
    for run, exchange in zip(runs, exchanges, strict=True):
        run.receive(exchange, result)


def _added(parts: Sequence[npt.NDArray[Any]]) -> Bytes:
    """The sum in float32, in the order of ranks, rounded once."""
    total = parts[0].astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # what is too large becomes infinite
        for part in parts[1:]:
            total += part.astype(np.float32)
        return total.astype(parts[0].dtype).view(np.uint8)
