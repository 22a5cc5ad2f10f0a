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
