"""A stage of the device while it is being written: commands over buffers that have no address yet.

The emitters of the operators put commands here in the order in which each engine shall run them. `finish` gives every
buffer its place in SSRAM (`memory_plan`) and every command the ones that it has to wait for (`ordering`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np

from vamc_py.runstream.program import (
    Access,
    Argument,
    Collective,
    Command,
    DmaEngine,
    Dynamic,
    Gather,
    KernelRecord,
    Launch,
    Memory,
    Term,
    Transfer,
)
from vamc_py.schedules.vacc.emit.memory_plan import Lifetime, place
from vamc_py.schedules.vacc.emit.ordering import with_waits

ALIGNMENT = 64  # bytes; of every buffer, for the host's vectors as for bursts


@dataclass(eq=False)
class Buffer:
    """A piece of SSRAM, or of DDR, for what lies between operators and is too large."""

    name: str
    bytes: int
    memory: Memory = "ssram"
    permanent: bool = False
    """It keeps its place through the whole stage: a slot of a ring, which the stage's engines use by turns."""


@dataclass(frozen=True, eq=False)
class Ddr:
    """A tensor in DDR, which has its address from the beginning."""

    name: str
    offset: int
    bytes: int


Place: TypeAlias = Buffer | Ddr


@dataclass(frozen=True)
class At:
    """Bytes of a buffer or of a tensor in DDR, as in ``Access``. By default all of them."""

    place: Place
    offset: int = 0
    size: int | None = None
    rows: int = 1
    stride: int = 0
    at: Dynamic | None = None

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.place.bytes - self.offset if self.size is None else self.size

    @property
    def memory(self) -> Memory:
        """Where it is."""
        return "ddr" if isinstance(self.place, Ddr) else self.place.memory

    @property
    def span(self) -> int:
        """From the first byte to the one behind the last."""
        return (self.rows - 1) * self.stride + self.row_bytes

    def access(self, addresses: dict[Buffer, int]) -> Access:
        """With the address of its buffer."""
        start = self.place.offset if isinstance(self.place, Ddr) else addresses[self.place]
        rows = {"rows": self.rows, "stride": self.stride} if self.rows > 1 else {}
        return Access(memory=self.memory, offset=start + self.offset, size=self.row_bytes, at=self.at, **rows)


@dataclass
class Ring:
    """Buffers that are used by turns, so that one is filled while others are read."""

    slots: list[Buffer]
    turn: int = 0

    def next(self) -> Buffer:
        """The buffer whose last use lies furthest back."""
        self.turn += 1
        return self.slots[(self.turn - 1) % len(self.slots)]


@dataclass(frozen=True)
class Finished:
    """A stage that is written."""

    commands: tuple[Command, ...]
    ssram_bytes: int
    """How far the plan reaches."""
    scratch_bytes: int
    """Of DDR, for what lies between operators."""


@dataclass
class Stage:
    """Commands in the order of the engines' queues."""

    ssram_bytes: int
    ddr_bytes: int
    scratch: int
    """The first byte of DDR that no tensor has."""
    registers: Mapping[str, int]
    """The registers of the stage, each with the number that its value stays below."""
    _drafts: list[tuple[str, dict[str, Any], list[At]]] = field(default_factory=list)
    kernels: dict[str, KernelRecord] = field(default_factory=dict)
    used: dict[str, Any] = field(default_factory=dict)
    """The DeviceKernel of each name."""
    _rings: dict[str, Ring] = field(default_factory=dict)
    _label: str = ""

    @contextmanager
    def label(self, name: str) -> Iterator[None]:
        """What is emitted inside belongs to this operator."""
        before, self._label = self._label, name
        try:
            yield
        finally:
            self._label = before

    def part(self, name: str) -> AbstractContextManager[None]:
        """What is emitted inside belongs to this part of the operator."""
        return self.label(f"{self._label}.{name}")

    def buffer(self, name: str, elements: int, dtype: str, memory: Memory = "ssram") -> Buffer:
        """A new piece of a memory, which lives from its first use to its last."""
        return Buffer(f"{self._label}.{name}", elements * np.dtype(dtype).itemsize, memory)

    def ring(self, name: str, slots: int, size: int, *, lasting: bool) -> Ring:
        """The ring of this name, `size` bytes a slot at least: of the operator that is being emitted, or, `lasting`, of
        all of them, which then may fill it before the ones before them are through."""
        key = name if lasting else f"{self._label}.{name}"
        if key not in self._rings:
            self._rings[key] = Ring([Buffer(f"{key}.{slot}", 0, permanent=lasting) for slot in range(slots)])
        ring = self._rings[key]
        for slot in ring.slots:
            slot.bytes = max(slot.bytes, size)
        return ring

    def transfer(self, engine: DmaEngine, source: At, target: At) -> None:
        """A copy of all bytes of `source`."""
        sides = (source.rows * source.row_bytes, target.rows * target.row_bytes)
        assert sides[0] == sides[1], f"{self._label}: {sides[0]} bytes to {sides[1]}"
        self._add("transfer", {"engine": engine}, [source, target])

    def gather(self, index: At, table: At, entry: Sequence[Term], first: int, entries: int, target: At) -> None:
        """Entries of a table by index (see ``program.Gather``)."""
        self._add("gather", {"entry": tuple(entry), "first": first, "entries": entries}, [index, table, target])

    def launch(self, kernel: Any, *arguments: At, scalars: Sequence[int | str] = ()) -> None:
        """A kernel (a DeviceKernel) over pieces of SSRAM, in the order of its arguments."""
        for argument, wanted in zip(arguments, kernel.arguments, strict=True):
            size = wanted.elements * np.dtype(wanted.dtype).itemsize
            assert argument.span == size, f"{kernel.name}.{wanted.name}: {argument.span} bytes for {size}"
        if kernel.name not in self.used:
            self.used[kernel.name] = kernel
            self.kernels[kernel.name] = kernel.record()
        self._add("launch", {"kernel": kernel, "scalars": tuple(scalars)}, list(arguments))

    def collective(
        self, kind: Literal["all_reduce", "all_gather"], dtype: Literal["float16", "float32"], source: At, target: At
    ) -> None:
        """An exchange with the other dies."""
        self._add(kind, {"dtype": dtype}, [source, target])

    def _add(self, kind: str, fields: dict[str, Any], places: list[At]) -> None:
        self._drafts.append((kind, {"label": self._label, **fields}, places))

    def finish(self) -> Finished:
        """The commands with addresses and waits.

        ``memory_plan.DoesNotFitError`` where the buffers that live at a time are too large together.
        """
        addresses: dict[Buffer, int] = {}
        reach = {}
        memories: tuple[tuple[Memory, int, int], ...] = (
            ("ssram", 0, self.ssram_bytes),
            ("ddr", self.scratch, self.ddr_bytes - self.scratch),
        )
        for memory, start, size in memories:
            lifetimes = self._lifetimes(memory)
            places, reach[memory] = place(list(lifetimes.values()), size, memory.upper())
            addresses |= {buffer: start + at for buffer, at in zip(lifetimes, places, strict=True)}
        commands = [
            _command(kind, fields, [at.access(addresses) for at in places]) for kind, fields, places in self._drafts
        ]
        return Finished(with_waits(commands, self.registers), reach["ssram"], reach["ddr"])

    def _lifetimes(self, memory: Memory) -> dict[Buffer, Lifetime]:
        spans: dict[Buffer, tuple[int, int]] = {}
        for number, (_, _, places) in enumerate(self._drafts):
            for at in places:
                if isinstance(at.place, Buffer) and at.place.memory == memory:
                    first, _ = spans.get(at.place, (number, number))
                    spans[at.place] = (first, number)
        end = len(self._drafts)
        return {
            buffer: Lifetime(
                buffer.name, -(-buffer.bytes // ALIGNMENT) * ALIGNMENT, *((0, end) if buffer.permanent else span)
            )
            for buffer, span in spans.items()
        }


def _command(kind: str, fields: dict[str, Any], accesses: list[Access]) -> Command:
    label = fields["label"]
    if kind == "transfer":
        return Transfer(label=label, engine=fields["engine"], source=accesses[0], target=accesses[1])
    if kind == "gather":
        return Gather(
            label=label,
            index=accesses[0],
            table=accesses[1],
            entry=fields["entry"],
            first=fields["first"],
            entries=fields["entries"],
            target=accesses[2],
        )
    if kind == "launch":
        kernel = fields["kernel"]
        arguments = tuple(
            Argument(access=access, mode=mode) for access, mode in zip(accesses, kernel.modes, strict=True)
        )
        return Launch(
            label=label, engine=kernel.engine, kernel=kernel.name, arguments=arguments, scalars=fields["scalars"]
        )
    assert kind in ("all_reduce", "all_gather")
    return Collective(label=label, kind=kind, dtype=fields["dtype"], source=accesses[0], target=accesses[1])  # type: ignore[arg-type]
