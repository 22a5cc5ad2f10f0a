"""Where the tensors of a program lie in DDR, and that they fit."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterator

from vamc_py.runstream.program import DdrTensor, Program

ITEM_BYTES = {"int8": 1, "uint8": 1, "int32": 4, "float16": 2, "float32": 4}
"""The dtypes of tensors and of kernels' buffers."""
READ_ONLY = ("parameter", "input")
"""Roles of tensors that no command may write."""
WRITTEN_BEFORE = ("parameter", "cache", "input")
"""Roles of tensors that hold something when a step starts; caches hold zeros before the first."""
REGISTER_LIMIT = 1 << 24


class Layout:
    """The tensors of a program by their addresses."""

    def __init__(self, tensors: tuple[DdrTensor, ...]) -> None:
        self.tensors = sorted(tensors, key=lambda tensor: tensor.offset)
        self._begins = [tensor.offset for tensor in self.tensors]

    def holding(self, begin: int, end: int) -> DdrTensor | None:
        """The tensor that has all bytes from ``begin`` to before ``end``."""
        place = bisect.bisect_right(self._begins, begin) - 1
        if place < 0:
            return None
        tensor = self.tensors[place]
        return tensor if end <= tensor.offset + tensor.size else None


def parameter_bytes(program: Program) -> int:
    """From the beginning of DDR to behind the last parameter."""
    return max((one.offset + one.size for one in program.tensors if one.role == "parameter"), default=0)


def layout_faults(program: Program, *, ssram_bytes: int, ddr_bytes: int) -> Iterator[str]:
    """What is wrong before any command is looked at, for a die with so much memory."""
    for memory, needed, there in (
        ("SSRAM", program.ssram_bytes, ssram_bytes),
        ("DDR", program.ddr_bytes, ddr_bytes),
    ):
        if needed > there:
            yield f"needs {needed} bytes of {memory}, a die of this device has {there}"
    if not 0 <= program.rank < program.ranks:
        yield f"rank {program.rank} of {program.ranks} ranks"
    for name, limit in program.registers.items():
        if not 1 <= limit <= REGISTER_LIMIT:
            yield f"register {name}: its values stay below {limit}; 1 to {REGISTER_LIMIT} is possible"
    names = [tensor.name for tensor in program.tensors]
    yield from (f"tensor {name} is there {names.count(name)} times" for name in names if names.count(name) > 1)
    for tensor in program.tensors:
        yield from (f"tensor {tensor.name}: {fault}" for fault in _tensor_faults(tensor, program))
    yield from _overlaps(program)
    yield from _interface_faults(program)


def _tensor_faults(tensor: DdrTensor, program: Program) -> Iterator[str]:
    if tensor.dtype not in ITEM_BYTES:
        yield f"dtype {tensor.dtype} is not one of {', '.join(ITEM_BYTES)}"
    elif min(tensor.shape, default=1) < 1:
        yield f"shape {list(tensor.shape)} holds nothing"
    elif tensor.size != (wanted := math.prod(tensor.shape) * ITEM_BYTES[tensor.dtype]):
        yield f"{tensor.size} bytes, its shape {list(tensor.shape)} of {tensor.dtype} takes {wanted}"
    if tensor.offset < 0 or tensor.offset + tensor.size > program.ddr_bytes:
        end = tensor.offset + tensor.size
        yield f"lies from byte {tensor.offset} to {end}, the program has {program.ddr_bytes} bytes of DDR"


def _overlaps(program: Program) -> Iterator[str]:
    ordered = Layout(program.tensors).tensors
    for before, after in itertools.pairwise(ordered):
        if before.offset + before.size > after.offset:
            yield f"tensors {before.name} and {after.name} overlap at byte {after.offset} of DDR"
    end = parameter_bytes(program)  # they are one file, mapped at the beginning
    for tensor in ordered:
        if tensor.role != "parameter" and tensor.offset < end:
            yield f"tensor {tensor.name} lies before byte {end}, where the parameters end"


def _interface_faults(program: Program) -> Iterator[str]:
    """Of what the host writes and reads: ``tokens`` and ``logits``."""
    inputs = [(one.name, one.dtype, one.shape) for one in program.tensors if one.role == "input"]
    if inputs != [("tokens", "int32", (program.tokens,))]:
        yield f"the inputs are {inputs} instead of tokens, int32 [{program.tokens}]"
    outputs = [(one.name, one.dtype, len(one.shape)) for one in program.tensors if one.role == "output"]
    if outputs != [("logits", "float32", 1)]:
        yield f"the outputs are {outputs} instead of logits, float32 of one dimension"
