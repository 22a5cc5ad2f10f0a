"""Compile one PrimFunc for this machine's CPU and call it on numpy arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tvm


def compile_kernel(kernel: Any) -> Callable[..., None]:
    """The compiled kernel as a function of numpy arrays; like the kernel it writes its results into them."""
    target = tvm.target.Target.from_device("cpu")
    module = tvm.IRModule({"main": kernel.with_attr("global_symbol", "main")})
    compiled = tvm.compile(module, target=target)["main"]

    def call(*arrays: np.ndarray[Any, Any]) -> None:
        tensors = [tvm.runtime.tensor(array) for array in arrays]
        compiled(*tensors)
        for array, tensor in zip(arrays, tensors, strict=True):
            array[...] = tensor.numpy()

    return call
