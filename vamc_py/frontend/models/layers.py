"""The layers that the models share. Shapes: batch is 1, n tokens, p past positions, h heads, d head_dim."""

from __future__ import annotations

import torch
from torch import nn

from vamc_py.frontend.rope import Rope


class RMSNorm(nn.Module):  # type: ignore[misc]
    """x / sqrt(mean(x²) + eps) * weight over the last dimension, computed in float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


class RotaryEmbedding(nn.Module):  # type: ignore[misc]
    """cos and sin of each position's angles."""

    inv_freq: torch.Tensor

    def __init__(self, rope: Rope, head_dim: int) -> None:
        super().__init__()
        self.register_buffer("inv_freq", torch.from_numpy(rope.inverse_frequencies(head_dim)), persistent=False)
        self.scaling = rope.attention_scaling()

    def forward(self, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """i64 [1, n] -> cos, sin: each f32 [1, 1, n, d], the second half of d repeating the first."""
        half = position_ids[:, None, :, None].float() * self.inv_freq
        angles = torch.cat((half, half), dim=-1)
        if self.scaling == 1.0:
            return angles.cos(), angles.sin()
        return angles.cos() * self.scaling, angles.sin() * self.scaling


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turns the pairs (i, i + d/2) of [1, h, n, d]."""
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return x * cos + turned * sin


def repeat_kv(x: torch.Tensor, groups: int) -> torch.Tensor:
    """[1, h, s, d] -> [1, h * groups, s, d], each head ``groups`` times in a row."""
    if groups == 1:
        return x
    batch, heads, length, size = x.shape
    return x[:, :, None].expand(batch, heads, groups, length, size).reshape(batch, heads * groups, length, size)


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """q [1, h, n, d], k and v [1, h, p+n, d], additive mask [1, 1, n, p+n] -> [1, h, n, d]; softmax in float32."""
    scores = torch.matmul(q, k.transpose(2, 3)) * q.shape[-1] ** -0.5 + mask
    return torch.matmul(torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype), v)


class SwiGLU(nn.Module):  # type: ignore[misc]
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))
