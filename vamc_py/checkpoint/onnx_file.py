"""One ONNX file: its graph, and rows of its tensors from wherever they are kept."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from vamc_py.checkpoint.base import sample_row
from vamc_py.checkpoint.onnx_wire import load_without_weights
from vamc_py.errors import CheckpointError

LEAST_OPSET = 13  # Softmax and Squeeze meant something else before


@dataclass(frozen=True)
class Stored:
    """A tensor of the file: in ``file`` from byte ``offset`` on, or, if small, in the graph."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    file: Path
    offset: int | None


class OnnxFile:
    """``model``: the graph without weights; ``stored``: its tensors by name; ``constants``: those the graph holds."""

    def __init__(self, path: Path) -> None:
        """Reads the graph; CheckpointError for damage, for files that are missing or too short, and for old opsets."""
        self.path = path
        self.model = load_without_weights(path)
        versions = {entry.domain: entry.version for entry in self.model.opset_import}
        opset = versions.get("", versions.get("ai.onnx", 0))
        if opset < LEAST_OPSET:
            raise CheckpointError(f"{path} is of ONNX opset {opset}; export it with opset {LEAST_OPSET} or later")
        self.opset = opset
        self.stored: dict[str, Stored] = {}
        self._protos: dict[str, TensorProto] = {}
        self._maps: dict[Path, npt.NDArray[np.uint8]] = {}
        for tensor in self.model.graph.initializer:
            if tensor.name in self.stored:
                raise CheckpointError(f"{path}: the tensor {tensor.name} is there twice; export it again")
            self.stored[tensor.name] = self._place(tensor)
            self._protos[tensor.name] = tensor

    @cached_property
    def inputs(self) -> list[onnx.ValueInfoProto]:
        """The graph's inputs; older files name weights among them, too."""
        return [value for value in self.model.graph.input if value.name not in self.stored]

    def array(self, name: str) -> npt.NDArray[Any]:
        """A tensor whole, as it is stored; read-only where it is mapped."""
        stored = self.stored[name]
        if stored.offset is None:
            values: npt.NDArray[Any] = numpy_helper.to_array(self._protos[name])
            return values
        size = math.prod(stored.shape) * stored.dtype.itemsize
        raw = self._mapped(stored.file)[stored.offset : stored.offset + size]
        if raw.ctypes.data % stored.dtype.itemsize:
            raw = raw.copy()
        return raw.view(stored.dtype).reshape(stored.shape)

    def samples(self) -> Iterator[bytes]:
        """A few bytes of every tensor that lies outside of the graph, in the order of their names."""
        for name in sorted(self.stored):
            stored = self.stored[name]
            if stored.offset is not None:
                size = math.prod(stored.shape) * stored.dtype.itemsize
                yield sample_row(self._mapped(stored.file)[stored.offset : stored.offset + size])

    def files(self) -> list[Path]:
        """The files that hold tensors, without the graph's own."""
        return sorted({stored.file for stored in self.stored.values()} - {self.path})

    def _place(self, tensor: TensorProto) -> Stored:
        try:
            dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
        except KeyError as error:
            raise CheckpointError(
                f"{self.path}: {tensor.name} has the ONNX element type {tensor.data_type}, which is not known"
            ) from error
        shape = tuple(tensor.dims)
        if tensor.data_location != TensorProto.EXTERNAL:
            return Stored(tensor.name, shape, dtype, self.path, None)
        said = {entry.key: entry.value for entry in tensor.external_data}
        place = self._location(tensor.name, said.get("location", ""))
        size = math.prod(shape) * dtype.itemsize
        offset, length = (
            self._number(tensor.name, said, key, default) for key, default in (("offset", 0), ("length", size))
        )
        if length != size:
            raise CheckpointError(
                f"{self.path}: {tensor.name} has {length} bytes of data; {dtype.name} {list(shape)} needs {size}"
            )
        if offset + size > len(self._mapped(place)):
            raise CheckpointError(f"{place} ends before {tensor.name}: it is truncated; export or copy it again")
        return Stored(tensor.name, shape, dtype, place, offset)

    def _number(self, name: str, said: dict[str, str], key: str, default: int) -> int:
        text = said.get(key, str(default))
        if not (text.isascii() and text.isdigit()):
            raise CheckpointError(f"{self.path}: the {key} of {name} is {text!r}; export it again")
        return int(text)

    def _location(self, name: str, location: str) -> Path:
        """The file beside the graph; what leads out of the folder is refused, as onnx's own reader does."""
        path = Path(location)
        if not location or path.is_absolute() or ".." in path.parts:
            raise CheckpointError(f"{self.path}: {name} is said to lie in {location!r}, which is not beside the file")
        place = self.path.parent / path
        if not place.is_file():
            raise CheckpointError(f"{self.path}: the weights' file {place.name} is not beside it; copy it there")
        return place

    def _mapped(self, path: Path) -> npt.NDArray[np.uint8]:
        if path not in self._maps:
            # A plain array over the map: slices of np.memmap cost several times as much. Nothing cannot be mapped.
            empty = path.stat().st_size == 0
            self._maps[path] = np.empty(0, np.uint8) if empty else np.memmap(path, np.uint8, "r").view(np.ndarray)
        return self._maps[path]
