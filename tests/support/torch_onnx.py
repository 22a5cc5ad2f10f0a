"""Graphs that torch.onnx writes of torch models, as other people export them: weights inside, under other names."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vamc_py.frontend.model_config import ModelConfig
from vamc_py.frontend.models.quantized import QuantizedLinear


class _Call(nn.Module):
    """The model with its past as flat arguments, or without any (a prefill)."""

    def __init__(self, module: nn.Module, model: ModelConfig, *, past: bool) -> None:
        super().__init__()
        self.module, self.model, self.past = module, model, past

    def forward(self, input_ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, *past: Any) -> Any:
        pairs: Any = list(zip(past[::2], past[1::2], strict=True))
        if not self.past:
            empty = torch.zeros((1, self.model.kv_heads, 0, self.model.head_dim))
            pairs = [(empty, empty)] * self.model.layers
        logits, present = self.module(input_ids, mask, positions, pairs)
        return logits, *(part for pair in present for part in pair)


def export_with_torch(
    module: nn.Module, model: ModelConfig, path: Path, *, new: int, past: int | None, dynamic: bool, opset: int = 17
) -> None:
    """``past`` None: a prefill graph, which has no past among its inputs. The mask is added to the scores."""
    length = past or 0
    shape = (1, model.kv_heads, length, model.head_dim)
    cache = [] if past is None else [torch.zeros(shape) for _ in range(2 * model.layers)]
    names = [f"{layer}.{part}" for layer in range(model.layers) for part in ("key", "value")]
    inputs = ["input_ids", "attention_mask", "position_ids"]
    inputs += [] if past is None else [f"past_key_values.{name}" for name in names]
    axes: dict[str, dict[int, str]] = {}
    if dynamic:
        axes = {"input_ids": {1: "n"}, "attention_mask": {2: "n", 3: "t"}, "position_ids": {1: "n"}}
        axes |= {name: {2: "p"} for name in inputs[3:]}
        axes |= {f"present.{name}": {2: "t"} for name in names}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Call(module.eval(), model, past=past is not None),
            (
                torch.zeros((1, new), dtype=torch.int64),
                torch.zeros((1, 1, new, length + new)),
                torch.arange(length, length + new)[None],
                *cache,
            ),
            path,
            input_names=inputs,
            output_names=["logits", *(f"present.{name}" for name in names)],
            dynamic_axes=axes,
            opset_version=opset,
            dynamo=False,
        )


class _Node(torch.autograd.Function):
    """What the patched files' QuantizedLinear exports."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, weight.float() * scale[:, None])

    @staticmethod
    def symbolic(g: Any, x: Any, weight: Any, scale: Any) -> Any:
        return g.op("Vastai::QuantizedLinearPerChannel", x, weight, scale)


def _forward(layer: QuantizedLinear, x: torch.Tensor) -> torch.Tensor:
    product = _Node.apply(x, layer.weight, layer.scale)
    return product if layer.bias is None else product + layer.bias


@contextmanager
def quantized_nodes() -> Iterator[None]:
    """While it lasts, a QuantizedLinear is exported as the node Vastai::QuantizedLinearPerChannel."""
    original = QuantizedLinear.forward
    QuantizedLinear.forward = _forward
    try:
        yield
    finally:
        QuantizedLinear.forward = original
