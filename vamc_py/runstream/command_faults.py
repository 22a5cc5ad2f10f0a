"""Faults of single commands: addresses, sizes, kernels' arguments, waits. The order of commands is for ``order``."""

from __future__ import annotations

from collections.abc import Iterator

from vamc_py.runstream.layout import ITEM_BYTES, READ_ONLY, REGISTER_LIMIT, Layout
from vamc_py.runstream.program import Access, Collective, Command, Gather, KernelRecord, Launch, Program, Transfer, Work
from vamc_py.runstream.uses import Use, extremes, reach, uses

_DIRECTIONS = {"idma": ("ddr", "ssram"), "wddma": ("ddr", "ssram"), "odma": ("ssram", "ddr")}  # cdma takes any
_WORK_SIZES = {"mma_f16": 3, "mma_i8": 3, "drain": 1, "vector": 2}
_INT32 = range(-(1 << 31), 1 << 31)


def named(number: int, command: Command) -> str:
    """A command for people: its number, and the operator that it belongs to."""
    return f"command {number} ({command.label})" if command.label else f"command {number}"


def command_faults(program: Program) -> Iterator[str]:
    """One sentence for each fault, in the order of commands."""
    for name, record in program.kernels.items():
        yield from (f"kernel {name}: {fault}" for fault in _kernel_faults(record))
    checker = _Checker(program)
    for number, command in enumerate(program.commands):
        for fault in checker.faults(number, command):
            yield f"{named(number, command)} {fault}"


def _kernel_faults(record: KernelRecord) -> Iterator[str]:
    for argument in record.arguments:
        if argument.dtype not in ITEM_BYTES:
            yield f"buffer {argument.name} has dtype {argument.dtype}, which is not one of {', '.join(ITEM_BYTES)}"
        if argument.elements < 1:
            yield f"buffer {argument.name} has {argument.elements} elements"
    yield from (
        _work_fault(work) for core in record.work for work in core if len(work.sizes) != _WORK_SIZES[work.intrinsic]
    )


def _work_fault(work: Work) -> str:
    return f"{work.intrinsic} has {len(work.sizes)} sizes instead of {_WORK_SIZES[work.intrinsic]}"


class _Checker:
    """Checks commands one by one; the texts go on from the command's name."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._layout = Layout(program.tensors)
        self._clean: set[Use] = set()  # the same addresses return in every layer

    def faults(self, number: int, command: Command) -> Iterator[str]:
        for wait in command.waits:
            if not 0 <= wait < number:
                yield f"waits for command {wait}, which does not come before it"
        if isinstance(command, Gather) and (fault := self._table_fault(command)):
            yield fault
            return
        broken = [fault for use in uses(command) if (fault := self._use_fault(use))]
        yield from broken
        if not broken:  # sizes of accesses that are no accesses say nothing
            yield from self._kind_faults(command)

    def _kind_faults(self, command: Command) -> Iterator[str]:
        if isinstance(command, Transfer):
            yield from _transfer_faults(command)
        elif isinstance(command, Gather):
            yield from _gather_faults(command)
        elif isinstance(command, Launch):
            yield from self._launch_faults(command)
        else:
            yield from _collective_faults(command, self._program.ranks)

    def _use_fault(self, use: Use) -> str | None:
        if use in self._clean:
            return None
        if (fault := self._access_fault(use)) is None:
            self._clean.add(use)
        return fault

    def _access_fault(self, use: Use) -> str | None:
        access = use.access
        if access.rows > 1 and access.stride < access.size:
            return f"{use.verb} rows of {access.size} bytes that begin every {access.stride} bytes, so they overlap"
        if access.at is not None and access.at.register_name not in self._program.registers:
            return f"{use.verb} at an address of the register {access.at.register_name}, which the program has not"
        begin, end = reach(access, self._program.registers)
        where = f"{use.verb} {access.memory.upper()} from byte {begin} to {end}"
        if access.memory == "ssram":
            there = self._program.ssram_bytes
            return f"{where}, of which the program has {there} bytes" if begin < 0 or end > there else None
        tensor = self._layout.holding(begin, end)
        if tensor is None:
            return f"{where}, which does not lie in one tensor"
        if use.writes and tensor.role in READ_ONLY:
            return f"{where}, which belongs to the {tensor.role} {tensor.name}"
        return None

    def _table_fault(self, gather: Gather) -> str | None:
        """Before the table's reach can be told."""
        if gather.table.at is not None:
            return "gathers from a table whose address depends on a register"
        if not 1 <= gather.entries <= REGISTER_LIMIT:
            return f"gathers from a table of {gather.entries} entries; 1 to {REGISTER_LIMIT} is possible"
        low, high = extremes(gather.entry, gather.entries)
        begin, end = gather.table.offset + low, gather.table.offset + high + gather.table.span
        if gather.table.memory != "ddr" or self._layout.holding(begin, end) is None:
            return (
                f"gathers from {gather.table.memory.upper()}, byte {begin} to {end}, which does not lie in one tensor"
            )
        return None

    def _launch_faults(self, command: Launch) -> Iterator[str]:
        record = self._program.kernels.get(command.kernel)
        if record is None:
            yield f"launches the kernel {command.kernel}, which the program has not"
            return
        if record.engine != command.engine:
            yield f"launches {command.kernel} on the {command.engine} engine, it is for the {record.engine} engine"
        if len(command.arguments) != len(record.arguments):
            yield f"gives {command.kernel} {len(command.arguments)} buffers instead of {len(record.arguments)}"
            return
        for argument, wanted in zip(command.arguments, record.arguments, strict=True):
            if fault := self._buffer_fault(argument.access, wanted.elements, ITEM_BYTES.get(wanted.dtype, 1)):
                yield f"gives {command.kernel} {fault} for its buffer {wanted.name}"
        if len(command.scalars) != record.scalars:
            yield f"gives {command.kernel} {len(command.scalars)} scalars instead of {record.scalars}"
        for scalar in command.scalars:
            if isinstance(scalar, str) and scalar not in self._program.registers:
                yield f"gives {command.kernel} the register {scalar}, which the program has not"
            elif isinstance(scalar, int) and scalar not in _INT32:
                yield f"gives {command.kernel} {scalar}, which is no int32"

    def _buffer_fault(self, access: Access, elements: int, item: int) -> str | None:
        if access.memory != "ssram":
            return "bytes of DDR, which kernels do not reach,"
        if access.span != elements * item:
            return f"{access.span} bytes instead of {elements * item}"
        moves = [] if access.at is None else [term.factor for term in access.at.terms]
        if any(place % item for place in (access.offset, *moves)):
            return f"an address that is no multiple of an element's {item} bytes"
        return None


def _transfer_faults(command: Transfer) -> Iterator[str]:
    source, target = command.source, command.target
    if source.bytes != target.bytes:
        yield f"reads {source.bytes} bytes and writes {target.bytes}"
    wanted = _DIRECTIONS.get(command.engine)
    if wanted is not None and wanted != (source.memory, target.memory):
        yield (
            f"copies from {source.memory.upper()} to {target.memory.upper()}, "
            f"{command.engine} does so from {wanted[0].upper()} to {wanted[1].upper()} only"
        )


def _gather_faults(command: Gather) -> Iterator[str]:
    index = command.index
    if index.rows != 1 or index.size % ITEM_BYTES["int32"]:
        yield f"takes {index.rows} rows of {index.size} bytes for its index, which is one row of int32"
    elif command.target.bytes != (wanted := index.size // ITEM_BYTES["int32"] * command.table.bytes):
        yield f"gathers {wanted} bytes and writes {command.target.bytes}"
    if command.table.rows > 1 and command.table.stride < command.table.size:
        yield f"gathers entries whose pieces of {command.table.size} bytes begin every {command.table.stride} bytes"


def _collective_faults(command: Collective, ranks: int) -> Iterator[str]:
    source, target = command.source, command.target
    if source.memory != "ssram" or target.memory != "ssram":
        yield f"exchanges {source.memory.upper()} for {target.memory.upper()}, it does so in SSRAM only"
    if source.size % ITEM_BYTES[command.dtype] or target.size % ITEM_BYTES[command.dtype]:
        yield f"exchanges rows of {source.size} for rows of {target.size} bytes, which are not whole {command.dtype}"
    if command.kind == "all_reduce" and source.bytes != target.bytes:
        yield f"adds {source.bytes} bytes and writes {target.bytes}"
    if command.kind == "all_gather" and (source.rows, source.size * ranks) != (target.rows, target.size):
        yield (
            f"gathers {source.rows} rows of {source.size} bytes from {ranks} ranks "
            f"and writes {target.rows} rows of {target.size} bytes"
        )
