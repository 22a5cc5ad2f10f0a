"""The memory of a simulated die, and a program's view of it: every access is checked when it happens.

A static check has proved the same of a program before (see ``check``); here nothing relies on it.
"""

from __future__ import annotations

import math
import mmap
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vamc_py.errors import ArtifactError
from vamc_py.runstream.cells import Cells, Index
from vamc_py.runstream.layout import READ_ONLY, WRITTEN_BEFORE, Layout, parameter_bytes
from vamc_py.runstream.program import Access, DdrTensor, Memory, Program
from vamc_py.runstream.uses import Use, offset_of, reach, uses
from vamc_py.runtime import memory

Bytes = npt.NDArray[np.uint8]
# MAP_NORESERVE of x86-64 and arm64, which Python's mmap does not name: without it Linux refuses more than there is RAM.
_NO_RESERVE = 0x4000 if sys.platform == "linux" else 0


class DeviceFault(ArtifactError):  # noqa: N818  # the device's word for it
    """A command did what the device forbids, or the dies of a group did not meet.

    It is an ArtifactError, since a program is data of the artifact: with a whole one from a right compiler this does
    not happen, and the user's way out is the same. ``address`` is that of the byte, where the fault is about one.
    """

    def __init__(self, what: str, *, stage: str, rank: int, number: int, label: str, address: int | None) -> None:
        command = f"command {number} ({label})" if label else f"command {number}"
        super().__init__(f"{stage} of rank {rank}: {command} {what}; compile the artifact again")
        self.stage, self.rank, self.number, self.label = stage, rank, number, label
        self.address = address


class AccessError(Exception):
    """What is wrong with an access, going on from the command's name; the executor makes a DeviceFault of it."""

    def __init__(self, what: str, address: int | None = None) -> None:
        super().__init__(what)
        self.address = address


class DieMemory:
    """DDR and SSRAM of one die. It outlives the steps, since caches do, and serves both stages."""

    def __init__(self, parameters: Path | None, *, ddr_bytes: int, ssram_bytes: int) -> None:
        """``parameters`` is mod.params, which is mapped read-only at the beginning of DDR; all else is zero.

        Pages that nothing writes take no memory. Raises ArtifactError where the file is missing or larger than DDR.
        """
        self._parameters = _mapped(parameters) if parameters is not None else np.zeros(0, np.uint8)
        self.parameter_bytes = len(self._parameters)
        self.ddr_bytes = ddr_bytes
        if self.parameter_bytes > ddr_bytes:
            raise ArtifactError(
                f"{parameters}: {self.parameter_bytes} bytes of parameters do not fit the {ddr_bytes} bytes of DDR; "
                "compile for more ranks, or a device with more memory"
            )
        self._rest = _zeros(ddr_bytes - self.parameter_bytes)
        self.ssram = _zeros(ssram_bytes)

    def parameters(self) -> Bytes:
        """The bytes of mod.params, read-only."""
        return self._parameters

    def ddr(self, offset: int, size: int) -> Bytes:
        """Bytes of DDR behind the parameters, in place; IndexError where there are none."""
        begin = offset - self.parameter_bytes
        if begin < 0 or begin + size > len(self._rest):
            raise IndexError(f"DDR from byte {offset} to {offset + size}")
        return self._rest[begin : begin + size]


def _zeros(size: int) -> Bytes:
    """Zero pages from a page's beginning. They are not reserved: DDR is larger than what a program touches of it."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE
    return np.frombuffer(mmap.mmap(-1, max(size, 1), flags=flags), np.uint8, size)


def _mapped(path: Path) -> Bytes:
    try:
        if path.stat().st_size == 0:
            return np.zeros(0, np.uint8)
        with path.open("rb") as file:
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}; copy or compile the artifact again") from error


class StageMemory:
    """A die's memory as one program sees it, and what its commands have written in this step."""

    def __init__(self, die: DieMemory, program: Program) -> None:
        """ArtifactError where mod.params has not the length that the program needs, or DDR is too small."""
        where = f"the {program.stage} of rank {program.rank}"
        others = [tensor.offset for tensor in program.tensors if tensor.role != "parameter"]
        if not parameter_bytes(program) <= die.parameter_bytes <= min(others, default=die.ddr_bytes):
            raise ArtifactError(
                f"mod.params has {die.parameter_bytes} bytes, {where} reads {parameter_bytes(program)}; "
                "copy or compile the artifact again"
            )
        if program.ddr_bytes > die.ddr_bytes:
            raise ArtifactError(
                f"{where} needs {program.ddr_bytes} bytes of DDR, the die has {die.ddr_bytes}; compile for more ranks, "
                "or a device with more memory"
            )
        self._die = die
        self._layout = Layout(program.tensors)
        self._limits = program.registers
        self._tensors = {tensor.name: tensor for tensor in program.tensors}
        self._cells = {name: Cells(self._tracked(name, program), program.registers) for name in ("ddr", "ssram")}
        self._written = {name: np.zeros(cells.count, np.bool_) for name, cells in self._cells.items()}

    def begin(self) -> None:
        """A step starts: SSRAM, scratch and output hold nothing. Parameters, caches and inputs do."""
        for written in self._written.values():
            written[:] = False

    def tensor(self, name: str) -> npt.NDArray[Any]:
        """A tensor of DDR that is no parameter, for the host, in place."""
        tensor = self._tensors[name]
        return self._die.ddr(tensor.offset, tensor.size).view(tensor.dtype).reshape(tensor.shape)

    def output(self, name: str) -> npt.NDArray[Any]:
        """A copy of a tensor that this step has written; AccessError where it has not, all of it."""
        tensor, cells, written = self._tensors[name], self._cells["ddr"], self._written["ddr"]
        index = cells.within(tensor.offset, tensor.offset + tensor.size)
        if (there := int(cells.sizes(index)[written[index]].sum())) != tensor.size:
            raise AccessError(f"is the last one, and {there} of the {tensor.size} bytes of {name} were written")
        return self.tensor(name).copy()

    def place(self, use: Use) -> Place:
        """An access of a command; AccessError where it can never be right."""
        span = reach(use.access, self._limits)
        tracked = use.access.memory == "ssram" or self._holder(*span).role not in WRITTEN_BEFORE
        index = self._cells[use.access.memory].of(use.access) if tracked else None
        return Place(self, use, index, self._written[use.access.memory])

    def window(self, access: Access, offset: int, *, writes: bool) -> tuple[Bytes, int]:
        """The bytes with those from ``offset`` on, and where in them these begin. AccessError where it may not be."""
        begin, end = offset, offset + access.span
        verb = "writes" if writes else "reads"
        if access.memory == "ssram":
            if begin < 0 or end > len(self._die.ssram):
                size = len(self._die.ssram)
                raise AccessError(f"{verb} SSRAM from byte {begin} to {end}, of which the die has {size} bytes", begin)
            return self._die.ssram, begin
        tensor = self._holder(begin, end, verb)
        if writes and tensor.role in READ_ONLY:
            raise AccessError(
                f"writes DDR from byte {begin} to {end}, which belongs to the {tensor.role} {tensor.name}", begin
            )
        if tensor.role == "parameter":
            return self._die.parameters(), begin
        return self._die.ddr(tensor.offset, tensor.size), begin - tensor.offset

    def _holder(self, begin: int, end: int, verb: str = "reads") -> DdrTensor:
        if (tensor := self._layout.holding(begin, end)) is None:
            raise AccessError(
                f"{verb} DDR from byte {begin} to {end}, which does not lie in one tensor of this die", begin
            )
        return tensor

    def address(self, name: Memory, cell: int) -> int:
        """The first byte of a cell."""
        return self._cells[name].address(cell)

    def _tracked(self, name: str, program: Program) -> set[Access]:
        """The accesses to bytes that hold nothing when a step starts."""
        found = {use.access for command in program.commands for use in uses(command) if use.access.memory == name}
        if name == "ssram":
            return found
        holders = {access: self._layout.holding(*reach(access, program.registers)) for access in found}
        return {access for access, one in holders.items() if one is not None and one.role not in WRITTEN_BEFORE}


class Place:
    """One access of a command, on its die. A dynamic one counts as written when all that it may be is written."""

    def __init__(self, stage: StageMemory, use: Use, index: Index | None, written: npt.NDArray[np.bool_]) -> None:
        self._stage, self._use, self._index, self._written = stage, use, index, written
        access = use.access
        whole = access.rows == 1 or access.stride == access.size
        self.dynamic = access.at is not None
        self.bytes = access.bytes
        self.row = access.bytes if whole else access.size
        """Bytes that lie together."""
        self._stride = self.row if whole else access.stride
        self._fixed = None if self.dynamic else stage.window(access, access.offset, writes=use.writes)

    def check(self) -> None:
        """AccessError where the command reads and a byte was not written."""
        if self._use.reads and self._index is not None and not (there := self._written[self._index]).all():
            cells = np.arange(len(self._written))[self._index]
            address = self._stage.address(self._use.access.memory, int(cells[~there][0]))
            raise AccessError(
                f"reads {self._use.access.memory.upper()} at byte {address}, which was not written", address
            )

    def mark(self) -> None:
        """Once the command is through: what it writes is written. Of a dynamic access it is not known what all is."""
        if self._use.writes and self._index is not None and not self.dynamic:
            self._written[self._index] = True

    def chunks(self, registers: Mapping[str, int], size: int) -> npt.NDArray[np.void]:
        """The bytes in place, as [rows, row bytes / size] elements of ``size`` bytes, a divisor of ``row``."""
        window, begin = self._window(registers)
        shape = self.bytes // self.row, self.row // size
        return np.ndarray(shape, f"V{size}", window, begin, (self._stride, size))

    def flat(self, registers: Mapping[str, int], dtype: str) -> npt.NDArray[Any]:
        """All bytes in place, as elements of one dimension. The access has one row."""
        window, begin = self._window(registers)
        return np.ndarray((self.bytes // np.dtype(dtype).itemsize,), dtype, window, begin)

    def buffer(self, registers: Mapping[str, int], dtype: str, elements: int) -> Any:
        """SSRAM from the first byte to the last, as the flat tensor that a kernel takes, in place."""
        window, begin = self._window(registers)
        item = np.dtype(dtype).itemsize
        if self._use.access.memory != "ssram" or begin % item:
            where = f"{self._use.access.memory.upper()} at byte {begin}"
            raise AccessError(f"gives a kernel {where}; it takes {dtype} in SSRAM at multiples of {item} bytes", begin)
        return memory.tensor(np.ndarray((elements,), dtype, window, begin), alignment=item)

    def windows(self, registers: Mapping[str, int], size: int) -> npt.NDArray[np.void]:
        """Element i is the ``size`` bytes from byte i on, in place. The access has one row."""
        window, begin = self._window(registers)
        return np.ndarray((self.bytes - size + 1,), f"V{size}", window, begin, (1,))

    def read(self, registers: Mapping[str, int]) -> Bytes:
        """A copy of the bytes, row by row; AccessError as ``check`` has it."""
        self.check()
        return self.chunks(registers, self.row).reshape(-1).copy().view(np.uint8)

    def write(self, registers: Mapping[str, int], data: Bytes) -> None:
        """Write so many bytes, row by row."""
        target = self.chunks(registers, self.row)
        target[...] = np.ascontiguousarray(data).view(target.dtype).reshape(target.shape)
        self.mark()

    def _window(self, registers: Mapping[str, int]) -> tuple[Bytes, int]:
        if self._fixed is not None:
            return self._fixed
        access = self._use.access
        offset = access.offset + offset_of(access.at, registers)
        return self._stage.window(access, offset, writes=self._use.writes)


def copy(target: Place, source: Place, registers: Mapping[str, int]) -> None:
    """Copy byte by byte in the order of the rows; both have the same bytes."""
    size = math.gcd(source.row, target.row)
    into = target.chunks(registers, size)
    into[...] = source.chunks(registers, size).reshape(into.shape)
