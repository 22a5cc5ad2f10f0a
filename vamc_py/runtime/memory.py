"""Memory that compiled code may use: aligned, and handed over without a copy."""

from __future__ import annotations

import math
import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

from vamc_py.runtime import library

ALIGNMENT = 64  # bytes; compiled code loads whole vectors and dies on less


def zeros(shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
    """A zero array at the start of a memory page; the OS gives each page when it is first written.

    Raises MemoryError or OSError where the OS refuses the size.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    return np.frombuffer(mmap.mmap(-1, max(size, 1)), dtype, math.prod(shape)).reshape(shape)


def tensor(array: npt.NDArray[Any], alignment: int = ALIGNMENT) -> Any:
    """A TVM tensor over the array's own memory, which it keeps alive. ValueError when it is not aligned.

    `alignment`: bytes; less is for code that was compiled for less, as the kernels of the vacc target are.
    """
    return library.load().from_dlpack(array, require_alignment=alignment, require_contiguous=True)


def viewed_as(tensor: Any, dtype: str) -> Any:
    """The same memory as elements of another dtype of the same size, such as bfloat16, which numpy does not know."""
    tvm_ffi = library.load()
    view = tvm_ffi.get_global_func("runtime.TVMTensorCreateView")
    return view(tensor, tvm_ffi.Shape(tensor.shape), tvm_ffi.dtype(dtype), 0)
