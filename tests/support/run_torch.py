"""Random weights for a model config, and one way to call modules, traces and transformers' models with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from support.checkpoints import random_tensor
from support.stock_trace import StockCall, stock_config
from torch import nn
from transformers import AutoModelForCausalLM

from vamc_py.check.torch_reference import causal_mask, run_exported
from vamc_py.frontend.model_config import ModelConfig, expected_tensors
from vamc_py.frontend.models.qwen2 import Qwen2ForCausalLM
from vamc_py.frontend.models.qwen3 import Qwen3ForCausalLM
from vamc_py.frontend.trace import Mask, Traced


@dataclass(frozen=True)
class Step:
    """Arguments of one step: n new tokens after p past positions, with random past."""

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    past: list[tuple[torch.Tensor, torch.Tensor]]

    def mask(self, kind: Mask) -> torch.Tensor:
        """Causal, [1, 1, n, p+n]."""
        return causal_mask(self.input_ids.shape[1], self.past[0][0].shape[2], kind)

    def arguments(self, mask: Mask) -> dict[str, Any]:
        return {
            "input_ids": self.input_ids,
            "attention_mask": self.mask(mask),
            "position_ids": self.position_ids,
            "past_key_values": self.past,
        }


def random_step(model: ModelConfig, new: int, past: int, *, seed: int = 0) -> Step:
    generator = torch.Generator().manual_seed(seed)
    shape = (1, model.kv_heads, past, model.head_dim)
    return Step(
        torch.randint(0, model.vocab_size, (1, new), generator=generator),
        torch.arange(past, past + new)[None],
        [
            (torch.randn(shape, generator=generator), torch.randn(shape, generator=generator))
            for _ in range(model.layers)
        ],
    )


def random_weights(model: ModelConfig, *, seed: int = 0, scale: float = 0.2) -> dict[str, torch.Tensor]:
    """Every tensor of the checkpoint; the scale is large enough for attention to prefer some positions."""
    shapes = expected_tensors(model)
    return {
        name: torch.from_numpy(random_tensor(name, shape, seed=seed, scale=scale)) for name, shape in shapes.items()
    }


def load(module: nn.Module, weights: dict[str, torch.Tensor]) -> nn.Module:
    missing, unexpected = module.load_state_dict(weights, strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}  # tied
    return module.eval()


def built_in(model: ModelConfig, weights: dict[str, torch.Tensor], **options: Any) -> Qwen2ForCausalLM:
    """Our own model, with real weights."""
    kind = {"qwen2": Qwen2ForCausalLM, "qwen3": Qwen3ForCausalLM}[model.architecture]
    return load(kind(model, **options), weights)


def stock_model(config: dict[str, Any], weights: dict[str, torch.Tensor]) -> StockCall:
    """transformers' own model under our models' call."""
    return StockCall(load(AutoModelForCausalLM.from_config(stock_config(config)), weights)).eval()


def run_traced(traced: Traced, weights: dict[str, torch.Tensor], step: Step) -> tuple[torch.Tensor, list[Any]]:
    """Runs the exported graph with real weights in place of the stride-0 ones."""
    return run_exported(traced, weights, step.arguments(traced.mask))
