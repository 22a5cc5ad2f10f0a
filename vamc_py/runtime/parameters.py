"""The parameters of an artifact, mapped into memory."""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vamc_py.artifact.manifest import Parameter
from vamc_py.runtime import memory

_CARRIER = {"bfloat16": "uint16"}  # dtype → numpy's dtype of the same size, where numpy lacks the dtype


def map_parameters(path: Path, parameters: Sequence[Parameter]) -> list[Any]:
    """TVM tensors over the mapped file, in order; the file's pages are read when they are first used.

    The layout must have been checked (artifact.verify.check_layout): compiled code reads what it is given.
    """
    if not parameters:
        return []
    # Private and writable, though nothing writes: DLPack refuses read-only memory.
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
    mapped.madvise(mmap.MADV_WILLNEED)  # the kernel reads ahead while the model is being set up
    return [_tensor(mapped, parameter) for parameter in parameters]


def _tensor(mapped: mmap.mmap, parameter: Parameter) -> Any:
    carrier = np.dtype(_CARRIER.get(parameter.dtype, parameter.dtype))
    array = np.frombuffer(mapped, carrier, math.prod(parameter.shape), parameter.offset).reshape(parameter.shape)
    tensor = memory.tensor(array)
    return memory.viewed_as(tensor, parameter.dtype) if parameter.dtype in _CARRIER else tensor
