"""Compile one PrimFunc for this machine's CPU, or for another that this one can stand for, and call it on arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tvm

from vamc_py._tvm import compile_module


def build_kernel(kernel: Any, target: Any | None = None) -> Any:
    """The module of the compiled kernel, whose name in it is ``main``; `target` is this machine's CPU by default."""
    module = tvm.IRModule({"main": kernel.with_attr("global_symbol", "main")})
    return compile_module(module, target or tvm.target.Target.from_device("cpu"))


def compile_kernel(kernel: Any, target: Any | None = None) -> Callable[..., None]:
    """The compiled kernel as a function of numpy arrays; like the kernel it writes its results into them."""
    return as_arrays(build_kernel(kernel, target)["main"])


def as_arrays(compiled: Any) -> Callable[..., None]:
    """A function of a built module as one of numpy arrays, which it writes its results into."""

    def call(*arrays: np.ndarray[Any, Any]) -> None:
        tensors = [tvm.runtime.tensor(array) for array in arrays]
        compiled(*tensors)
        for array, tensor in zip(arrays, tensors, strict=True):
            array[...] = tensor.numpy()

    return call
