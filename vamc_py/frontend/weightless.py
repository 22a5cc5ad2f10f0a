"""Building torch modules without weights, so that tracing a 32B model takes no memory.

While a module is built its parameters live on the meta device, where initialisation costs nothing; afterwards they
become stride-0 CPU tensors of the same shape. torch.export and TVM's importer take those, but neither takes meta
parameters beside real buffers. Buffers stay real, and equal ones (the rotary tables of each layer) share one tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.overrides import TorchFunctionMode

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def build_weightless(build: Callable[[], ModuleT]) -> ModuleT:
    """Calls ``build`` and returns its module, float32, in eval mode, with stride-0 parameters of no defined value."""
    with _EmptyOnMeta(), _parameters_on_meta():
        module = build()
    for name, buffer in module.named_buffers():
        if buffer.is_meta:
            raise ValueError(f"buffer {name} is built from torch.empty, which gives no memory here")
    _replace_parameters(module)
    module.eval()
    return module


class _EmptyOnMeta(TorchFunctionMode):  # type: ignore[misc]
    """torch.empty, from which nn's layers make their parameters, allocates nothing; other factories are as ever."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if function is torch.empty:
            kwargs["device"] = "meta"
        return function(*args, **kwargs)


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Moves each parameter to the meta device, and each buffer onto an equal earlier one, when it is registered."""
    seen: list[torch.Tensor] = []

    def parameter_hook(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is None or parameter.is_meta:
            return parameter
        return nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)

    def buffer_hook(module: nn.Module, name: str, buffer: torch.Tensor | None) -> torch.Tensor | None:
        if buffer is None or buffer.is_meta:
            return buffer
        for earlier in seen:
            if earlier.dtype == buffer.dtype and torch.equal(earlier, buffer):
                return earlier
        seen.append(buffer)
        return buffer

    handles = [
        register_module_parameter_registration_hook(parameter_hook),
        register_module_buffer_registration_hook(buffer_hook),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _replace_parameters(module: nn.Module) -> None:
    """Stride-0 float32 in place of every parameter; tied parameters stay tied."""
    replaced: dict[int, nn.Parameter] = {}
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if id(parameter) not in replaced:
                flat = torch.zeros((), dtype=torch.float32).expand(parameter.shape)
                replaced[id(parameter)] = nn.Parameter(flat, requires_grad=False)
            setattr(owner, name, replaced[id(parameter)])
