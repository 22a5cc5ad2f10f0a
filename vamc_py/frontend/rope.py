"""Rotary position embedding: what a config says about it, and its numbers, in numpy.

Two kinds are known: the plain one and YaRN (https://arxiv.org/abs/2309.00071). Computed in float64 and rounded once;
transformers computes in float32, which differs in the last places.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Rope:
    """Parameters of the embedding; everything after ``kind`` has a meaning for YaRN only."""

    theta: float
    kind: Literal["default", "yarn"] = "default"
    factor: float = 1.0  # how many times longer than the original context
    original_max_positions: int = 0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None  # None: derived from factor, mscale and mscale_all_dim
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True  # whether the ends of the ramp are rounded to whole dimensions

    def attention_scaling(self) -> float:
        """The factor on cos and sin (so on q·k its square)."""
        if self.kind == "default":
            return 1.0
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return _magnitude(self.factor, self.mscale) / _magnitude(self.factor, self.mscale_all_dim)
        return _magnitude(self.factor, 1.0)

    def inverse_frequencies(self, head_dim: int) -> NDArray[np.float32]:
        """Radians per position, float32 [head_dim / 2], the fastest first."""
        frequencies = self.theta ** -(np.arange(0, head_dim, 2) / head_dim)
        if self.kind == "yarn":
            ramp = self._ramp(head_dim)
            frequencies = frequencies * (1 - ramp) + frequencies / self.factor * ramp
        return frequencies.astype(np.float32)

    def _ramp(self, head_dim: int) -> NDArray[np.float64]:
        """0 where a frequency stays as it is, 1 where it is divided by the factor; [head_dim / 2]."""
        low, high = self._turning_dimension(self.beta_fast, head_dim), self._turning_dimension(self.beta_slow, head_dim)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, head_dim - 1)
        if low == high:
            high += 0.001
        return np.clip((np.arange(head_dim // 2) - low) / (high - low), 0.0, 1.0)

    def _turning_dimension(self, rotations: float, head_dim: int) -> float:
        """The (fractional) dimension whose frequency turns ``rotations`` times within the original context."""
        wavelength = self.original_max_positions / (rotations * 2 * math.pi)
        return head_dim * math.log(wavelength) / (2 * math.log(self.theta))


def _magnitude(factor: float, mscale: float) -> float:
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0
