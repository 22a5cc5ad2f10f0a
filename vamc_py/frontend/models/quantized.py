"""int8 weights in torch: per output row, symmetric, round to nearest."""

from __future__ import annotations

import torch
from torch import nn

_LARGEST = 127  # -128 is not used, so that the range is symmetric


class QuantizedLinear(nn.Module):  # type: ignore[misc]
    """A Linear that keeps ``weight`` int8 [n, k] and ``scale`` f32 [n] and dequantizes when it is called."""

    weight: torch.Tensor
    scale: torch.Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        # A row of zeros has no scale of its own; with 1 it stays zero.
        largest = weight.abs().amax(dim=1)
        scale = torch.where(largest == 0, torch.ones_like(largest), largest / _LARGEST)
        self.register_buffer("weight", torch.round(weight / scale[:, None]).to(torch.int8))
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight.to(x.dtype) * self.scale.to(x.dtype)[:, None], self.bias)


def quantize_linears(module: nn.Module, bits: int) -> None:
    """Replaces every Linear inside ``module`` by a QuantizedLinear."""
    if bits != 8:
        raise ValueError(f"weights of {bits} bits are not supported; 8 are")
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Linear):
                setattr(parent, name, QuantizedLinear(child))
