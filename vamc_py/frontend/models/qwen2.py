"""Qwen2 (also Qwen1.5, Qwen2.5, QwQ, Skywork-OR1, the Qwen distills of DeepSeek-R1 and, without biases, Llama)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from vamc_py.frontend.model_config import ModelConfig
from vamc_py.frontend.models import layers
from vamc_py.frontend.models.quantized import quantize_linears

KeyValue = tuple[torch.Tensor, torch.Tensor]  # each [1, kv_heads, positions, head_dim], rotated keys


class Qwen2Attention(nn.Module):  # type: ignore[misc]
    """Grouped-query attention over the past and the new tokens."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.groups = config.heads // config.kv_heads
        q_rows, kv_rows = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, q_rows, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.hidden_size, kv_rows, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.hidden_size, kv_rows, bias=config.qkv_bias)
        self.o_proj = nn.Linear(q_rows, config.hidden_size, bias=config.output_bias)

    def project(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """q, k and v of the new tokens, each [1, heads, n, head_dim], not yet rotated."""
        q, k, v = (self.split(proj(x)) for proj in (self.q_proj, self.k_proj, self.v_proj))
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def split(self, x: torch.Tensor) -> torch.Tensor:
        """[1, n, heads * head_dim] -> [1, n, heads, head_dim]."""
        return x.view(*x.shape[:-1], -1, self.head_dim)

    def forward(
        self, x: torch.Tensor, mask: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor], past: KeyValue
    ) -> tuple[torch.Tensor, KeyValue]:
        q, k, v = self.project(x)
        q, k = layers.rotate(q, *rotation), layers.rotate(k, *rotation)
        k, v = torch.cat((past[0], k), dim=2), torch.cat((past[1], v), dim=2)
        attended = layers.attend(q, layers.repeat_kv(k, self.groups), layers.repeat_kv(v, self.groups), mask)
        merged = attended.transpose(1, 2).reshape(*x.shape[:-1], -1)
        return self.o_proj(merged), (k, v)


class DecoderLayer(nn.Module):  # type: ignore[misc]
    def __init__(self, config: ModelConfig, attention: type[Qwen2Attention]) -> None:
        super().__init__()
        self.input_layernorm = layers.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = attention(config)
        self.post_attention_layernorm = layers.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = layers.SwiGLU(config.hidden_size, config.intermediate_size)

    def forward(
        self, x: torch.Tensor, mask: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor], past: KeyValue
    ) -> tuple[torch.Tensor, KeyValue]:
        attended, present = self.self_attn(self.input_layernorm(x), mask, rotation, past)
        x = x + attended
        return x + self.mlp(self.post_attention_layernorm(x)), present


class Decoder(nn.Module):  # type: ignore[misc]
    """Embedding, layers and final norm."""

    def __init__(self, config: ModelConfig, attention: type[Qwen2Attention]) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config, attention) for _ in range(config.layers))
        self.norm = layers.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = layers.RotaryEmbedding(config.rope, config.head_dim)

    def forward(
        self, input_ids: torch.Tensor, mask: torch.Tensor, position_ids: torch.Tensor, past: list[KeyValue]
    ) -> tuple[torch.Tensor, list[KeyValue]]:
        x = self.embed_tokens(input_ids)
        rotation = self.rotary_emb(position_ids)
        present = []
        for layer, layer_past in zip(self.layers, past, strict=True):
            x, layer_present = layer(x, mask, rotation, layer_past)
            present.append(layer_present)
        return self.norm(x), present


class Qwen2ForCausalLM(nn.Module):  # type: ignore[misc]
    """The patched model: ``insert_slice`` and ``iter_num`` are the vacc toolchain's.

    With ``insert_slice`` a prefill (``iter_num`` 0) computes the logits of the last token only; iterations from 1 on
    are decode steps and keep every row.
    """

    attention: ClassVar[type[Qwen2Attention]] = Qwen2Attention

    def __init__(self, config: ModelConfig, *, insert_slice: bool = False, iter_num: int = 0) -> None:
        super().__init__()
        self.model = Decoder(config, self.attention)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tied_embedding:
            self.lm_head.weight = self.model.embed_tokens.weight
        self.insert_slice = insert_slice
        self.iter_num = iter_num

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        past_key_values: list[KeyValue],
    ) -> tuple[torch.Tensor, list[KeyValue]]:
        """One step of one sequence.

        input_ids, position_ids: i64 [1, n]. attention_mask: f32 [1, 1, n, p+n], added to the scores. past_key_values:
        for each layer k and v, f32 [1, kv_heads, p, head_dim]. Returns the logits f32 [1, n or 1, vocab] and, for each
        layer, k and v grown to p+n positions.
        """
        hidden, present = self.model(input_ids, attention_mask, position_ids, past_key_values)
        if not self.iter_num and self.insert_slice:
            hidden = hidden[:, -1:, :]
        return self.lm_head(hidden), present

    def quantize(self, bits: int = 8) -> None:
        """Quantizes q, k, v, o, gate, up and down in place; embedding and lm_head stay float. 8 bits only."""
        quantize_linears(self.model.layers, bits)
