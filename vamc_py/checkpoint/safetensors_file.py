"""One safetensors file: its header checked, its tensors as mapped rows.

Why not the safetensors library: its numpy interface reads whole tensors and knows no bfloat16, and its errors name
neither the file nor the tensor.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from vamc_py.checkpoint.base import TensorInfo, row_range, sample_row
from vamc_py.errors import CheckpointError

DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_LARGEST_HEADER = 100_000_000  # bytes; the format's own limit


class SafetensorsFile:
    """``tensors``: what the file holds; ``header``: the bytes that say so."""

    def __init__(self, path: Path) -> None:
        """Reads and checks the header; CheckpointError names the tensor at fault."""
        self.path = path
        self.header, self._data_start, self._size = _read_header(path)
        self.tensors: dict[str, TensorInfo] = {}
        self._ranges: dict[str, tuple[int, int]] = {}
        for name, entry in _entries(self.header, path):
            info, self._ranges[name] = _tensor(name, entry, path)
            self.tensors[name] = info
        self._check_layout()

    def read(self, name: str, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]:
        """Rows [start, stop), a view of the mapped file."""
        info = self.tensors[name]
        start, stop = row_range(info, start, stop)
        dtype = DTYPES_BY_NAME[info.dtype]
        row_bytes = math.prod(info.shape[1:]) * dtype.itemsize
        offset = self._data_start + self._ranges[name][0]
        raw = self._map[offset + start * row_bytes : offset + stop * row_bytes]
        shape = (stop - start, *info.shape[1:]) if info.shape else ()
        if raw.ctypes.data % dtype.itemsize:
            raw = raw.copy()  # odd tensors before this one may leave it unaligned; numpy would be slow on that
        return raw.view(dtype).reshape(shape)

    def samples(self) -> Iterator[bytes]:
        """A few bytes of every tensor, in the order of their names."""
        for name in sorted(self._ranges):
            begin, end = self._ranges[name]
            yield sample_row(self._map[self._data_start + begin : self._data_start + end])

    @cached_property
    def _map(self) -> npt.NDArray[np.uint8]:
        # A plain array over the map: slices of np.memmap cost several times as much.
        return np.memmap(self.path, dtype=np.uint8, mode="r").view(np.ndarray)

    def _check_layout(self) -> None:
        """Tensors neither overlap nor lie outside the file."""
        available = self._size - self._data_start
        end_of_last, last = 0, ""
        for name, (begin, end) in sorted(self._ranges.items(), key=lambda item: item[1]):
            if end > available:
                what = f"{name} ends at byte {end} of the data, which has {available}: the file is truncated"
                raise CheckpointError(f"{self.path}: {what}; fetch it again")
            if begin < end_of_last and begin < end:
                raise CheckpointError(f"{self.path}: {name} overlaps {last}: the header is damaged; fetch it again")
            end_of_last, last = max(end, end_of_last), name


DTYPES_BY_NAME = {dtype.name: dtype for dtype in DTYPES.values()}


def _read_header(path: Path) -> tuple[bytes, int, int]:
    """The header's JSON, where the data starts, and the file's size."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, _LARGEST_HEADER):
                what = f"the header should have {length} bytes and the file has {size}"
                raise CheckpointError(f"{path} is truncated or no safetensors file: {what}; fetch it again")
            return file.read(length), 8 + length, size
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error


def _entries(header: bytes, path: Path) -> list[tuple[str, Any]]:
    """Names and descriptions of the tensors; a name that comes twice is refused."""
    try:
        # Objects as lists of pairs: a dict would hide a name that comes twice.
        content = json.loads(header.decode("utf-8"), object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise CheckpointError(f"{path}: the header is damaged: {error}; fetch the file again") from error
    if not isinstance(content, _Pairs):
        raise CheckpointError(f"{path}: the header is damaged: it is no JSON object; fetch the file again")
    entries = [(name, value) for name, value in content if name != "__metadata__"]
    names = [name for name, _ in entries]
    if len(set(names)) < len(names):
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise CheckpointError(f"{path}: the tensor {twice} is there twice; fetch the file again")
    return entries


class _Pairs(list[tuple[str, Any]]):
    """A JSON object."""


def _tensor(name: str, entry: Any, path: Path) -> tuple[TensorInfo, tuple[int, int]]:
    """A tensor's description and its range of bytes in the data."""
    fields = dict(entry) if isinstance(entry, _Pairs) else {}
    shape, offsets, code = _naturals(fields.get("shape")), _naturals(fields.get("data_offsets")), fields.get("dtype")
    if shape is None or offsets is None or len(offsets) != 2 or not isinstance(code, str):
        raise CheckpointError(f"{path}: the header's entry for {name} is damaged; fetch the file again")
    dtype = DTYPES.get(code)
    if dtype is None:
        raise CheckpointError(f"{path}: {name} has the dtype {code}; what can be read: {', '.join(DTYPES)}")
    begin, end = offsets
    needed = math.prod(shape) * dtype.itemsize
    if end - begin != needed:
        what = f"{name} has {end - begin} bytes of data; {code} {shape} needs {needed}"
        raise CheckpointError(f"{path}: {what}: the header is damaged; fetch the file again")
    return TensorInfo(name, tuple(shape), dtype.name), (begin, end)


def _naturals(value: object) -> list[int] | None:
    """The value if it is a list of sizes, else None."""
    if isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 48 for item in value):
        return value
    return None
