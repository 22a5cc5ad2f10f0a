"""Small made programs, and kernels for them in Python."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from vamc_py.runstream.program import (
    Access,
    Argument,
    Collective,
    Command,
    DdrTensor,
    Dynamic,
    KernelArgument,
    KernelRecord,
    Launch,
    Program,
    Term,
    Transfer,
    Work,
)

SSRAM_BYTES = 1024
DDR_BYTES = 4096
TOKENS, CONTEXT, VOCAB = 4, 16, 32

# Two parameters, a cache of rows of 64 bytes by position, an input, the output and scratch.
WEIGHT = DdrTensor(name="weight", role="parameter", dtype="float32", shape=(2, VOCAB), offset=0, size=256)
TABLE = DdrTensor(name="table", role="parameter", dtype="float32", shape=(8, 16), offset=256, size=512)
CACHE = DdrTensor(name="cache", role="cache", dtype="float32", shape=(CONTEXT, 16), offset=768, size=1024)
INPUT = DdrTensor(name="tokens", role="input", dtype="int32", shape=(TOKENS,), offset=1792, size=16)
LOGITS = DdrTensor(name="logits", role="output", dtype="float32", shape=(VOCAB,), offset=1856, size=128)
SCRATCH = DdrTensor(name="scratch", role="scratch", dtype="float32", shape=(256,), offset=2048, size=1024)
TENSORS = (WEIGHT, TABLE, CACHE, INPUT, LOGITS, SCRATCH)

# ``add(a, b, out, n)``: out = a + n * b over one line of logits.
ADD = KernelRecord(
    engine="vector",
    arguments=tuple(KernelArgument(name=name, dtype="float32", elements=VOCAB) for name in ("a", "b", "out")),
    scalars=1,
    work=((Work(intrinsic="vector", sizes=(VOCAB, 1), count=1),),),
)


def add(a: Any, b: Any, out: Any, n: int) -> None:
    """The kernel ``add`` on DLPack tensors."""
    first, second, result = (np.from_dlpack(tensor) for tensor in (a, b, out))
    result[:] = first + np.float32(n) * second


def ddr(offset: int, size: int, rows: int = 1, stride: int = 0, at: Dynamic | None = None) -> Access:
    return Access(memory="ddr", offset=offset, size=size, rows=rows, stride=stride, at=at)


def ssram(offset: int, size: int, rows: int = 1, stride: int = 0, at: Dynamic | None = None) -> Access:
    return Access(memory="ssram", offset=offset, size=size, rows=rows, stride=stride, at=at)


def moved(register: str, factor: int) -> Dynamic:
    """An offset of ``factor`` bytes for each unit of a register."""
    return Dynamic(register_name=register, terms=(Term(factor=factor),))


def load(
    source: Access, target: Access, *, engine: Any = "idma", waits: Iterable[int] = (), label: str = ""
) -> Transfer:
    return Transfer(engine=engine, source=source, target=target, waits=tuple(waits), label=label)


def store(source: Access, target: Access, *, waits: Iterable[int] = (), label: str = "") -> Transfer:
    return Transfer(engine="odma", source=source, target=target, waits=tuple(waits), label=label)


def launch(*accesses: tuple[Access, Any], n: int | str = 1, waits: Iterable[int] = (), label: str = "") -> Launch:
    """The kernel ``add`` on these buffers."""
    arguments = tuple(Argument(access=access, mode=mode) for access, mode in accesses)
    return Launch(engine="vector", kernel="add", arguments=arguments, scalars=(n,), waits=tuple(waits), label=label)


def reduce(source: Access, target: Access, *, waits: Iterable[int] = (), dtype: Any = "float32") -> Collective:
    return Collective(kind="all_reduce", dtype=dtype, source=source, target=target, waits=tuple(waits))


def program(commands: Iterable[Command], **changes: Any) -> Program:
    """A program with the tensors above; ``changes`` are fields of it."""
    fields: dict[str, Any] = {
        "device": "tiny",
        "stage": "prefill",
        "tokens": TOKENS,
        "context": CONTEXT,
        "rank": 0,
        "ranks": 1,
        "registers": {"position": CONTEXT, "row": TOKENS},
        "ddr_bytes": DDR_BYTES,
        "ssram_bytes": SSRAM_BYTES,
        "tensors": TENSORS,
        "kernels": {"add": ADD},
        "commands": tuple(commands),
    }
    return Program(**{**fields, **changes})


def sum_of_rows(**changes: Any) -> Program:
    """logits = row 0 of the weight + position * row 1."""
    first, second, out = ssram(0, 128), ssram(128, 128), ssram(256, 128)
    commands = (
        load(ddr(0, 128), first, engine="wddma", label="first"),
        load(ddr(128, 128), second, engine="idma", label="second"),
        launch((first, "read"), (second, "read"), (out, "write"), n="position", waits=(0, 1), label="sum"),
        store(out, ddr(LOGITS.offset, 128), waits=(2,), label="logits"),
    )
    return program(commands, **changes)
