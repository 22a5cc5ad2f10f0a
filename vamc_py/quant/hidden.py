"""Memory for the hidden states of all samples."""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

MOST_IN_MEMORY = 10**9  # bytes


def hidden_array(shape: tuple[int, ...], folder: Path | None = None) -> npt.NDArray[np.float32]:
    """An array f32 of this shape; beyond MOST_IN_MEMORY it is mapped from a file without a name, in ``folder``.

    The system writes a mapped array to disk when memory is short. The file goes with the array, also after a kill.
    None is the folder for temporary files. OSError where there is no room for it.
    """
    size = 4 * math.prod(shape)
    if size <= MOST_IN_MEMORY:
        return np.empty(shape, np.float32)
    with tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, size)  # a mapped page for which there is no room would end the process
        return np.memmap(file, dtype=np.float32, mode="w+", shape=shape).view(np.ndarray)
