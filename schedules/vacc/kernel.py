"""What a kernel of the device model is: a PrimFunc over buffers in SSRAM, and what a program says of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, Literal, ParamSpec, TypeAlias, cast

from tvm import DataType
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as build

from vamc_py.runstream.program import KernelArgument, KernelEngine, KernelRecord
from vamc_py.schedules.vacc.loops import serial
from vamc_py.schedules.vacc.work import count_work

SSRAM = "global.ssram"
"""The storage scope of a kernel's arguments. To LLVM it is memory as any other."""

Mode: TypeAlias = Literal["read", "write", "update"]
P = ParamSpec("P")


@dataclass(frozen=True)
class Buffer:
    """An argument: one dimension, from the first byte that the kernel may touch to the last, at any address."""

    name: str
    dtype: str
    elements: int
    mode: Mode = "read"


@dataclass(frozen=True, eq=False)
class DeviceKernel:
    """A kernel for certain sizes and a number of cores; a factory gives the same object for the same ones."""

    name: str
    """A C symbol: the factory and its parameters."""
    function: Any = field(repr=False)
    """The tvm.tirx.PrimFunc: its buffers, then int32 scalars; its body is a loop over cores."""
    engine: KernelEngine
    arguments: tuple[KernelArgument, ...]
    modes: tuple[Mode, ...]
    """What the kernel does with each argument. One that it writes it need not write whole: rows may have gaps."""
    scalars: int = 0

    def record(self) -> KernelRecord:
        """What a program keeps of the kernel, with the work of each core as its TIR has it."""
        return self._record

    @cached_property
    def _record(self) -> KernelRecord:
        work = count_work(self.function)
        return KernelRecord(engine=self.engine, arguments=self.arguments, scalars=self.scalars, work=work)


def factory(make: Callable[P, DeviceKernel]) -> Callable[P, DeviceKernel]:
    """`make`, which gives the same kernel again for the same parameters."""
    return cast(Callable[P, DeviceKernel], cache(make))


def symbol(stem: str, **parameters: Any) -> str:
    """A name for the parameters, which are ints, floats, bools, texts or tuples of ints; None and False say nothing."""
    said = {key: value for key, value in parameters.items() if value is not None and value is not False}
    return "_".join([stem, *(key + _text(value) for key, value in said.items())])


def _text(value: Any) -> str:
    if value is True:
        return ""
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return str(value).replace("-", "m").replace("+", "").replace(".", "p")


def define(
    name: str,
    engine: KernelEngine,
    buffers: Sequence[Buffer],
    cores: int,
    emit: Callable[..., None],
    scalars: Sequence[str] = (),
) -> DeviceKernel:
    """The kernel whose work on a core is what ``emit(core, *buffers, *scalars)`` emits; `core` is a TIR expression.

    Buffers may lie anywhere: nothing is assumed of their alignment. They do not overlap, but one that is written may be
    one that is read if each element depends on the element at its own place alone. ValueError where there is nothing
    to do.
    """
    empty = [buffer.name for buffer in buffers if buffer.elements < 1]
    if empty or cores < 1:
        raise ValueError(f"{name} has {cores} cores and nothing in {', '.join(empty) or 'no buffer'}")
    with IRBuilder() as builder, build.prim_func(s_tir=True):
        build.func_name(name)
        build.func_attr({"tirx.noalias": True, "global_symbol": name})
        arguments = [build.arg(buffer.name, _declare(buffer)) for buffer in buffers]
        arguments += [build.arg(scalar, build.int32()) for scalar in scalars]
        with serial(cores, "core") as core:
            emit(core, *arguments)
    return DeviceKernel(
        name=name,
        function=builder.get(),
        engine=engine,
        arguments=tuple(KernelArgument(name=b.name, dtype=b.dtype, elements=b.elements) for b in buffers),
        modes=tuple(buffer.mode for buffer in buffers),
        scalars=len(scalars),
    )


def _declare(buffer: Buffer) -> Any:
    return build.buffer((buffer.elements,), buffer.dtype, scope=SSRAM, align=DataType(buffer.dtype).bits // 8)
