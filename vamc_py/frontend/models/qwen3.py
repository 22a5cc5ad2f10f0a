"""Qwen3: Qwen2 with an RMSNorm over each head of q and k, and without biases."""

from __future__ import annotations

from typing import ClassVar

import torch

from vamc_py.frontend.model_config import ModelConfig
from vamc_py.frontend.models import layers
from vamc_py.frontend.models.qwen2 import Qwen2Attention, Qwen2ForCausalLM


class Qwen3Attention(Qwen2Attention):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.q_norm = layers.RMSNorm(config.head_dim, config.rms_norm_eps)
        self.k_norm = layers.RMSNorm(config.head_dim, config.rms_norm_eps)

    def project(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        q = self.q_norm(self.split(self.q_proj(x)))
        k = self.k_norm(self.split(self.k_proj(x)))
        v = self.split(self.v_proj(x))
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


class Qwen3ForCausalLM(Qwen2ForCausalLM):
    attention: ClassVar[type[Qwen2Attention]] = Qwen3Attention
