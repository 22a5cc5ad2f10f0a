"""What is kept of a linear layer's inputs: sums whose size does not depend on the number of samples."""

from __future__ import annotations

import torch


class InputStatistics:
    """Sums over the inputs x [tokens, K] of a linear layer, in float32."""

    def __init__(self, columns: int) -> None:
        self.tokens = 0
        self._products = torch.zeros(columns, columns)
        self._magnitudes = torch.zeros(columns)

    def add(self, x: torch.Tensor) -> None:
        """Counts inputs f32 [tokens, K] in."""
        self._products.addmm_(x.T, x)
        self._magnitudes += x.abs().sum(dim=0)
        self.tokens += len(x)

    def add_attended(self, x: torch.Tensor, weights: torch.Tensor) -> None:
        """Counts what v_proj's inputs f32 [samples, n, K] become in attention, for weights f32 [samples, heads, n, n].

        Attention is linear in v, so an error D of v_proj's weight errs by D Σⱼ aᵢⱼ xⱼ in token i of a head. These sums
        are the inputs that count: the token that every other one looks at (most often the first) weighs as much as it
        is looked at. Counted as the mean over heads, by their sum of products xᵀ (aᵀ a) x.
        """
        between = torch.matmul(weights.transpose(2, 3), weights).mean(dim=1)  # [samples, n, n]
        flat = x.reshape(-1, x.shape[-1])
        self._products.addmm_(flat.T, torch.matmul(between, x).reshape(flat.shape))
        self.tokens += len(flat)

    def hessian(self) -> torch.Tensor:
        """H = 2/n Σ x xᵀ, f32 [K, K]: the second derivative of the mean squared output error by any row of weights.

        Takes the sum's memory over, so this can be asked for once.
        """
        products = self._products
        del self._products
        return products.mul_(2 / self.tokens)

    def mean_magnitude(self) -> torch.Tensor:
        """The mean of |x|, f32 [K]."""
        return self._magnitudes / self.tokens
