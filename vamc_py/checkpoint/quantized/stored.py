"""Weights that come quantized, whatever form a vendor stores them in, behind the names of the compiler."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from vamc_py.checkpoint.base import Checkpoint, TensorInfo, row_range
from vamc_py.checkpoint.quantized.packing import pieces
from vamc_py.checkpoint.wrapped import WrappedCheckpoint
from vamc_py.errors import CheckpointError
from vamc_py.weights.formats import SCALE, ZERO, WeightFormat

Array = npt.NDArray[Any]
SCALE_DTYPES = ("float16", "bfloat16", "float32")


@dataclass(frozen=True)
class StoredWeight(ABC):
    """A weight [N, K] in a vendor's tensors.

    ``parts``: their names in ``source``: "values", "scale", "zero" where there is one, and what else belongs to them.
    """

    source: Checkpoint
    parts: Mapping[str, str]
    form: WeightFormat
    shape: tuple[int, int]

    @abstractmethod
    def values(self, start: int, stop: int) -> Array:
        """Rows of the values [rows, K], int8 or float8_e4m3fn; 4 bits from -8 to 7."""

    @abstractmethod
    def scale(self, start: int, stop: int) -> Array:
        """Rows of the scales, [rows, groups] or [rows, 1], of any float type that converts exactly."""

    def zero(self, start: int, stop: int) -> Array:
        """Rows of the zero points int8, like the scales, in the range of the values."""
        raise NotImplementedError(f"{type(self).__name__} has no zero points")

    def refuse(self, part: str, what: str) -> NoReturn:
        """CheckpointError that names the file and the vendor's tensor."""
        refuse(self.source, self.parts[part], what)


class QuantizedCheckpoint(WrappedCheckpoint):
    """The weights in their own precision, under the names of :class:`Checkpoint.quantized`; the rest as it is."""

    def __init__(self, base: Checkpoint, weights: Mapping[str, StoredWeight], ignored: frozenset[str]) -> None:
        """
        Args:
            weights: by the name of the weight, ``….q_proj.weight``.
            ignored: tensors of the vendor's format that say nothing about weights.

        Raises CheckpointError where a weight is there plain, too.
        """
        super().__init__(base)
        hidden = ignored.union(*(weight.parts.values() for weight in weights.values()))
        tensors = {name: info for name, info in base.tensors.items() if name not in hidden}
        for name, weight in weights.items():
            form, shape = weight.form, weight.shape
            companions = form.scale_shape(*shape)
            added = [
                TensorInfo(name, shape, form.dtype),
                TensorInfo(name + SCALE, companions, form.scale),
                *([TensorInfo(name + ZERO, companions, "int8")] if form.zeros else []),
            ]
            if taken := next((info.name for info in added if info.name in tensors), None):
                refuse(base, taken, f"is there beside the quantized {weight.parts['values']}; fetch the weights again")
            tensors |= {info.name: info for info in added}
        self.tensors = tensors
        self.quantized = {name: weight.form for name, weight in weights.items()}
        self._weights = weights

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Array:
        part, weight = self._part(name)
        if weight is None:
            return self.base.read(name, start, stop)
        info = self.tensors[name]
        start, stop = row_range(info, start, stop)
        if part == "values":
            return weight.values(start, stop)
        if part == "zero":
            stored = weight.zero(start, stop)
        else:
            stored = weight.scale(start, stop)
            if bad := np.flatnonzero(~np.isfinite(stored.astype(np.float32)).all(axis=1)).tolist():
                weight.refuse(part, f"has scales that are no numbers, first for row {start + bad[0]}; fetch it again")
        return np.ascontiguousarray(stored, dtype=info.dtype).reshape(stop - start, *info.shape[1:])

    def file_of(self, name: str) -> Path:
        part, weight = self._part(name)
        return self.base.file_of(name if weight is None else weight.parts[part])

    def _part(self, name: str) -> tuple[str, StoredWeight | None]:
        for part, ending in (("scale", SCALE), ("zero", ZERO)):
            if name.endswith(ending) and (weight := self._weights.get(name.removesuffix(ending))):
                return part, weight
        return "values", self._weights.get(name)


def refuse(source: Checkpoint, name: str, what: str) -> NoReturn:
    """CheckpointError ``file: tensor what``."""
    raise CheckpointError(f"{source.file_of(name)}: {name} {what}")


def tensor(
    source: Checkpoint, name: str, dtypes: tuple[str, ...], shape: tuple[int | None, ...], why: str
) -> TensorInfo:
    """The description of a vendor's tensor of these types and this shape (None: any size but 0).

    ``why``: what asks for that shape, for the message. CheckpointError where it is missing or another.
    """
    info = source.tensors.get(name)
    if info is None:
        raise CheckpointError(f"{source.path}: {name} is missing ({why}); fetch the weights again, whole")
    if info.dtype not in dtypes:
        refuse(source, name, f"is {info.dtype}, not {' or '.join(dtypes)}; the quantization_config is another model's")
    fits = len(info.shape) == len(shape) and all(
        size == wanted or (wanted is None and size > 0) for size, wanted in zip(info.shape, shape, strict=True)
    )
    if not fits:
        text = ", ".join("any" if size is None else str(size) for size in shape)
        refuse(source, name, f"has the shape {list(info.shape)}, not [{text}] ({why})")
    return info


def one_number(source: Checkpoint, name: str) -> tuple[int, ...]:
    """The shape of a tensor of one element, in as many dimensions as it has."""
    info = source.tensors.get(name)
    return (1,) * len(info.shape) if info else ()


def same_words(source: Checkpoint, name: str, word: np.int32) -> bool:
    """Whether every element of the tensor is this one; reads it in pieces."""
    shape = source.tensors[name].shape
    rows, width = math.prod(shape[:1]), math.prod(shape[1:])
    return all(bool((source.read(name, first, last) == word).all()) for first, last in pieces(rows, width))


def weights_of(source: Checkpoint, ending: str) -> dict[str, str]:
    """The modules with a tensor of this ending (``.qweight``), by their weight's name."""
    names = (name for name in source.tensors if name.endswith(ending))
    return {f"{module}.weight": module for module in (name.removesuffix(ending) for name in names)}


def check_order(source: Checkpoint, index: str, columns: int, size: int | None) -> None:
    """Raises CheckpointError unless ``index``, the group of each column, says k // size for column k."""
    tensor(source, index, ("int32", "int64"), (columns,), "the group of each column")
    if not np.array_equal(source.read(index), np.arange(columns) // (size or columns)):
        what = "groups columns by their activations and not in their order (desc_act, actorder), which is not read"
        refuse(source, index, f"{what}; quantize without it, or with static groups")
