"""Compile kernels of the vacc device model and call them on numpy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm_ffi

from vamc_py.schedules.vacc.host import compile_kernels
from vamc_py.schedules.vacc.kernel import DeviceKernel

Array = np.ndarray[Any, Any]


def run_kernel(kernel: DeviceKernel, *arrays: Array, scalars: tuple[int, ...] = ()) -> None:
    """The compiled kernel on arrays of any shape, which have the elements that it says; it writes into them."""
    call(compile_kernels([kernel]), kernel, *arrays, scalars=scalars)


def call(module: Any, kernel: DeviceKernel, *arrays: Array, scalars: tuple[int, ...] = ()) -> None:
    """A kernel of a compiled module, as `run_kernel` calls it."""
    for argument, array in zip(kernel.arguments, arrays, strict=True):
        assert (array.dtype, array.size) == (argument.dtype, argument.elements), argument
        assert array.flags.c_contiguous, argument
    assert len(scalars) == kernel.scalars
    module[kernel.name](*(tvm_ffi.from_dlpack(array.reshape(-1)) for array in arrays), *scalars)


def unaligned(array: Array) -> Array:
    """A copy that begins one element behind the start of its memory."""
    return np.concatenate([array.reshape(-1)[:1], array.reshape(-1)])[1:].reshape(array.shape)


def ulps(value: Array, reference: Array) -> float:
    """The largest distance in units in the last place of the reference rounded to the value's type."""
    rounded = reference.astype(value.dtype)
    return float(np.max(np.abs(value.astype(np.float64) - reference) / np.spacing(np.abs(rounded)).astype(np.float64)))
