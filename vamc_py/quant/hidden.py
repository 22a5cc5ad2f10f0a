"""Memory for the hidden states of all samples."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

MOST_IN_MEMORY = 10**9  # bytes


def hidden_array(shape: tuple[int, ...], folder: Path | None = None) -> npt.NDArray[np.float32]:
    """An array f32 of this shape; beyond MOST_IN_MEMORY it is mapped from a file without a name, in ``folder``.

    The system writes a mapped array to disk when memory is short. The file goes with the array, also after a kill.
    """
    if 4 * math.prod(shape) <= MOST_IN_MEMORY:
        return np.empty(shape, np.float32)
    with tempfile.TemporaryFile(dir=folder) as file:
        return np.memmap(file, dtype=np.float32, mode="w+", shape=shape).view(np.ndarray)
