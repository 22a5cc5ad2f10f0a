"""Traces of transformers' own Qwen2, Qwen3 and Llama, for passes that must not depend on how a model was written."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache
from transformers.cache_utils import DynamicLayer

from vamc_py.frontend.model_config import ModelConfig
from vamc_py.frontend.models.qwen2 import KeyValue
from vamc_py.frontend.trace import Traced, trace_module
from vamc_py.frontend.weightless import build_weightless


class StockCall(nn.Module):
    """Our models' call on a transformers model: a cache object inside, (k, v) tensors outside."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        past_key_values: list[KeyValue],
    ) -> tuple[torch.Tensor, list[KeyValue]]:
        cache = DynamicCache()
        cache.layers = [_filled(key, value) for key, value in past_key_values]
        output = self.module(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        )
        return output.logits, [(layer.keys, layer.values) for layer in output.past_key_values.layers]


def _filled(key: torch.Tensor, value: torch.Tensor) -> DynamicLayer:
    """A cache layer with a past; its own update would concatenate an empty tensor of another rank first."""
    layer = DynamicLayer()
    layer.dtype, layer.device, layer.is_initialized = key.dtype, key.device, True
    layer.keys, layer.values = key, value
    return layer


def stock_config(config: dict[str, Any]) -> Any:
    return AutoConfig.for_model(**config, attn_implementation="eager")


def trace_stock(config: dict[str, Any]) -> Traced:
    """``config`` is a config.json; eager attention, explicit additive mask and positions, flattened past."""
    model = ModelConfig.from_hf(config)
    module = build_weightless(lambda: AutoModelForCausalLM.from_config(stock_config(config), dtype=torch.float32))
    return trace_module(StockCall(module), model, mask="additive", prefix="module.")
