"""What a runstream is: the program of one die for one stage, as the compiler writes it and the executor reads it.

A program is a list of commands over two memories, the die's DDR and its SSRAM, with every address fixed. A command goes
to the queue of its engine; an engine runs its commands one after another, in the order of the list, each as soon as the
commands that it waits for are through. Beside that, engines run in parallel. So two commands that touch the same bytes,
one of them writing, must be ordered by a queue or by waits (``check`` proves it).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

FORMAT = 1
"""Of the serialised program. A reader refuses another one."""

Memory = Literal["ddr", "ssram"]
Stage = Literal["prefill", "decode"]
DmaEngine = Literal["idma", "odma", "wddma", "cdma"]
"""Activations to SSRAM, results from SSRAM, weights to SSRAM, copies and gathers: the names of public logs."""
KernelEngine = Literal["matrix", "vector"]
"""The cores' matrix units, and their vector units: all cores of the die work on one kernel of an engine at a time."""
Engine = Literal["idma", "odma", "wddma", "cdma", "matrix", "vector", "vccl"]
ENGINES: tuple[Engine, ...] = ("idma", "odma", "wddma", "cdma", "matrix", "vector", "vccl")
ROW_MAJOR_BLOCK = 16
"""Output rows of a weight that lie together, and positions of a cache: the matrix tile."""


class Record(BaseModel):
    """A frozen, strict part of a program."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Term(Record):
    """``(value // divide) % modulo * factor``; without a modulo, ``value // divide * factor``."""

    divide: int = Field(default=1, ge=1)
    modulo: int | None = Field(default=None, ge=1)
    factor: int

    def of(self, value: int) -> int:
        """The term of a value that is not negative."""
        quotient = value // self.divide
        return (quotient if self.modulo is None else quotient % self.modulo) * self.factor


class Dynamic(Record):
    """An offset that is known when the command runs: the sum of the terms of a register's value."""

    register_name: str
    terms: tuple[Term, ...]


class Access(Record):
    """The bytes of a memory that a command touches: ``rows`` rows of ``size`` bytes, ``stride`` bytes apart."""

    memory: Memory
    offset: int = Field(ge=0)
    size: int = Field(ge=1)
    rows: int = Field(default=1, ge=1)
    stride: int = Field(default=0, ge=0)
    """0 where there is one row; else at least ``size``."""
    at: Dynamic | None = None

    @property
    def bytes(self) -> int:
        """How many are touched."""
        return self.rows * self.size

    @property
    def span(self) -> int:
        """From the first byte to the one behind the last."""
        return (self.rows - 1) * self.stride + self.size


class _Command(Record):
    label: str = ""
    """The operator that it belongs to, for people: ``layers.3.mlp.down_proj``."""
    waits: tuple[int, ...] = ()
    """Numbers (places in the list) of the commands that must be through before this one starts: its events."""


class Transfer(_Command):
    """A copy between or within memories, byte by byte in the order of the rows. Both sides have the same bytes."""

    kind: Literal["transfer"] = "transfer"
    engine: DmaEngine
    source: Access
    target: Access


class Gather(_Command):
    """Entries of a table in DDR by index: target row i is entry ``index[i]``, which begins at the sum of ``entry``'s
    terms.

    An index outside [first, first + entries) gives a row of zeros: another die has that entry. Terms are of
    ``index - first``. ``table`` is the first entry: an entry may lie in pieces (``rows`` and ``stride``).
    """

    kind: Literal["gather"] = "gather"
    engine: DmaEngine = "cdma"
    index: Access  # int32, one row
    table: Access
    entry: tuple[Term, ...]
    first: int
    entries: int
    target: Access  # as many bytes as indices times those of an entry


class Argument(Record):
    """A buffer of a kernel: its access in SSRAM, and what the kernel does with it."""

    access: Access
    mode: Literal["read", "write", "update"]


class Launch(_Command):
    """A kernel on all cores of the die. Its buffers lie in SSRAM; scalars are numbers or the names of registers."""

    kind: Literal["launch"] = "launch"
    engine: KernelEngine
    kernel: str
    arguments: tuple[Argument, ...]
    scalars: tuple[int | str, ...] = ()


class Collective(_Command):
    """An exchange with the other dies, which run the same one at this place of their programs; SSRAM to SSRAM.

    all_reduce: the elements of all dies' sources added in the order of ranks, in float32, rounded once to ``dtype``.
    all_gather: row i of the target is the rows i of all dies' sources side by side, in the order of ranks.
    """

    kind: Literal["all_reduce", "all_gather"]
    engine: Literal["vccl"] = "vccl"
    dtype: Literal["float16", "float32"]
    source: Access
    target: Access


Command = Annotated[Transfer | Gather | Launch | Collective, Field(discriminator="kind")]


class Work(Record):
    """So many times an intrinsic of the device, with the sizes that its cost depends on.

    ``mma_f16`` and ``mma_i8``: (m, n, k); ``drain``: (elements); ``vector``: (elements, instructions for each element).
    """

    intrinsic: Literal["mma_f16", "mma_i8", "drain", "vector"]
    sizes: tuple[int, ...]
    count: int = Field(ge=1)


class KernelArgument(Record):
    """A buffer as the host function takes it: one dimension, from the first byte of the access to the last."""

    name: str
    dtype: str
    elements: int


class KernelRecord(Record):
    """A kernel of mod.so: the host function of its name computes exactly what the intrinsics are defined to."""

    engine: KernelEngine
    arguments: tuple[KernelArgument, ...]
    scalars: int = 0
    """int32 arguments behind the buffers."""
    work: tuple[tuple[Work, ...], ...]
    """For each core, in order: counted in the kernel's TIR."""


class DdrTensor(Record):
    """A named tensor in DDR. Parameters are read from mod.params at ``offset``, where they lie at the same place."""

    name: str
    role: Literal["parameter", "cache", "input", "output", "scratch"]
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int  # bytes


class Program(Record):
    """The runstream of one die for one stage: mod.json.

    Inputs are ``tokens`` i32 [tokens]; the output is ``logits`` f32 [vocab] of the wanted row, on every die. Registers:
    ``position`` of the first token, ``row`` of the token whose logits are wanted.
    """

    format: int = FORMAT
    device: str
    stage: Stage
    tokens: int
    """In a step: the prefill length, or 1."""
    context: int
    rank: int
    ranks: int
    registers: dict[str, int]
    """The registers, each with the number that its value stays below."""
    ddr_bytes: int
    ssram_bytes: int
    """Of SSRAM, as far as the plan reaches."""
    tensors: tuple[DdrTensor, ...]
    kernels: dict[str, KernelRecord]
    commands: tuple[Command, ...]
