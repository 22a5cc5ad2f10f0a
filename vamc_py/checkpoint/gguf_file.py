"""The GGUF container: metadata and tensor descriptions, parsed and checked; the data mapped.

Why not gguf.GGUFReader: it takes 7 s for a vocabulary of 150,000 tokens where this takes a fraction of one, and on a
damaged file it loops without end or raises whatever numpy raises.

Layout (little-endian): "GGUF", u32 version, u64 tensors, u64 metadata entries; each entry a string key, u32 type,
value; each tensor a string name, u32 dimensions, u64 each (fastest first), u32 type, u64 offset; padding; data.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from vamc_py.checkpoint.base import sample_row
from vamc_py.errors import CheckpointError

_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


@dataclass(frozen=True)
class GgufTensor:
    """A tensor as stored: ``rows`` rows of ``row_bytes`` bytes from ``offset`` in the file.

    ``shape`` is in numpy's order, which is the reverse of the file's.
    """

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    offset: int
    row_bytes: int
    rows: int

    @property
    def bits_per_weight(self) -> float:
        block, size = GGML_QUANT_SIZES[self.kind]
        return float(8 * size / block)


class GgufFile:
    """``metadata``: key to int, float, bool, str, or a list of one of them; ``tensors`` by llama.cpp's names."""

    def __init__(self, path: Path) -> None:
        """Reads everything but the tensors' data; CheckpointError names the key or tensor at fault."""
        self.path = path
        self._map = _map(path)
        cursor = _Cursor(path, self._map)
        if bytes(self._map[:4]) != b"GGUF":
            raise CheckpointError(f"{path} is no GGUF file: it does not start with GGUF; correct frontend.checkpoint")
        cursor.at = 4
        version = cursor.scalar("I")
        if version not in (2, 3):
            raise CheckpointError(f"{path} has GGUF version {version}; 2 and 3, little-endian, can be read")
        tensors, entries = cursor.scalar("Q"), cursor.scalar("Q")
        self.metadata: dict[str, Any] = {}
        for key, value in cursor.entries(entries):
            if key in self.metadata:
                raise CheckpointError(f"{path} is damaged: the metadata key {key} is there twice; fetch it again")
            self.metadata[key] = value
        descriptions = list(cursor.tensors(tensors))
        self.header_bytes = cursor.at
        self.tensors = self._place(descriptions)

    def rows(self, name: str, index: slice | npt.NDArray[np.intp]) -> npt.NDArray[np.uint8]:
        """Stored rows, [rows, row_bytes]; a slice gives a view of the mapped file, an index array a copy."""
        tensor = self.tensors[name]
        raw = self._map[tensor.offset : tensor.offset + tensor.rows * tensor.row_bytes]
        picked: npt.NDArray[np.uint8] = raw.reshape(tensor.rows, tensor.row_bytes)[index]
        return picked

    def header(self) -> bytes:
        return bytes(self._map[: self.header_bytes])

    def samples(self) -> Iterator[bytes]:
        """A few bytes of every tensor, in the order of their names."""
        for name in sorted(self.tensors):
            yield sample_row(self.rows(name, slice(None)).reshape(-1))

    def _place(self, descriptions: list[tuple[str, tuple[int, ...], int, int]]) -> dict[str, GgufTensor]:
        alignment = self.metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment <= 0:
            raise CheckpointError(f"{self.path} is damaged: general.alignment is {alignment}; fetch it again")
        start = -(-self.header_bytes // alignment) * alignment
        tensors: dict[str, GgufTensor] = {}
        for name, shape, kind, offset in descriptions:
            if name in tensors:
                raise CheckpointError(f"{self.path} is damaged: the tensor {name} is there twice; fetch it again")
            tensors[name] = self._tensor(name, shape, kind, start + offset)
        self._check_overlap(tensors)
        return tensors

    def _tensor(self, name: str, shape: tuple[int, ...], code: int, offset: int) -> GgufTensor:
        try:
            kind = GGMLQuantizationType(code)
        except ValueError as error:
            raise CheckpointError(f"{self.path}: {name} has the unknown type {code}; fetch the file again") from error
        block, size = GGML_QUANT_SIZES[kind]
        columns = shape[-1] if shape else 1
        if 0 in shape or columns % block:
            what = f"{name} has the shape {list(shape)}, which {kind.name}'s blocks of {block} columns do not allow"
            raise CheckpointError(f"{self.path} is damaged: {what}; fetch it again")
        row_bytes, rows = columns // block * size, math.prod(shape[:-1])
        end = offset + rows * row_bytes
        if end > len(self._map):
            what = f"{name} ends at byte {end} and the file at {len(self._map)}"
            raise CheckpointError(f"{self.path} is truncated: {what}; fetch it again")
        return GgufTensor(name, shape, kind, offset, row_bytes, rows)

    def _check_overlap(self, tensors: dict[str, GgufTensor]) -> None:
        end, last = 0, ""
        for tensor in sorted(tensors.values(), key=lambda tensor: tensor.offset):
            size = tensor.rows * tensor.row_bytes
            if size and tensor.offset < end:
                raise CheckpointError(f"{self.path} is damaged: {tensor.name} overlaps {last}; fetch it again")
            end, last = max(end, tensor.offset + size), tensor.name


def _map(path: Path) -> npt.NDArray[np.uint8]:
    try:
        if not path.stat().st_size:
            raise CheckpointError(f"{path} is empty; fetch it again")
        return np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error


class _Cursor:
    """Reads values one after another; never past the end of the file."""

    def __init__(self, path: Path, data: npt.NDArray[np.uint8]) -> None:
        self.path = path
        self.at = 0
        self._data = data.data
        self._where = "the header"

    def entries(self, count: int) -> Iterator[tuple[str, Any]]:
        for _ in range(count):
            key = self.string()
            self._where = f"the metadata {key}"
            yield key, self._value(self.scalar("I"))
            self._where = f"what follows the metadata {key}"

    def tensors(self, count: int) -> Iterator[tuple[str, tuple[int, ...], int, int]]:
        """Name, shape in numpy's order, type and offset in the data, ``count`` times."""
        for _ in range(count):
            name = self.string()
            self._where = f"the description of {name}"
            dimensions = self.scalar("I")
            if dimensions > 4:
                raise self._damaged(f"{dimensions} dimensions; GGUF has four at most")
            shape = tuple(reversed([self.scalar("Q") for _ in range(dimensions)]))
            yield name, shape, self.scalar("I"), self.scalar("Q")
            self._where = f"what follows the description of {name}"

    def scalar(self, code: str) -> Any:
        return struct.unpack("<" + code, self._take(struct.calcsize("<" + code)))[0]

    def string(self) -> str:
        length = self.scalar("Q")
        try:
            return str(self._take(length), "utf-8")
        except UnicodeDecodeError as error:
            raise self._damaged("a string that is not UTF-8") from error

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            return self.scalar(self._scalar_code(kind))
        item, length = self.scalar("I"), self.scalar("Q")
        if item == _STRING:
            self._need(8 * length)
            return [self.string() for _ in range(length)]
        code = self._scalar_code(item)
        return list(struct.unpack(f"<{length}{code}", self._take(length * struct.calcsize("<" + code))))

    def _scalar_code(self, kind: int) -> str:
        if kind not in _SCALARS:
            raise self._damaged(f"a value of the unknown type {kind}")
        return _SCALARS[kind]

    def _need(self, size: int) -> None:
        if self.at + size > len(self._data):
            raise CheckpointError(f"{self.path} is truncated or damaged: it ends in {self._where}; fetch it again")

    def _take(self, size: int) -> memoryview:
        self._need(size)
        self.at += size
        return self._data[self.at - size : self.at]

    def _damaged(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.path} is damaged: {self._where} has {what}; fetch it again")
