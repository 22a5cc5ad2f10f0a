"""A model's shape, and what a prompt and a decode step must read and compute at least."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CACHE_BYTES = 2  # of a cached number: float16
_SCALE_BYTES = 4  # one float32 scale for each row of int8 weights


@dataclass(frozen=True)
class Work:
    """The least that one piece of work needs."""

    read: float  # bytes from memory
    operations: float  # multiplies and adds


@dataclass(frozen=True)
class ModelShape:
    """A dense model of the Qwen or Llama kind; all products are with int8 weights of one scale a row."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int

    @classmethod
    def read(cls, folder: Path) -> ModelShape:
        """From the config.json of a Hugging Face folder."""
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        heads = config["num_attention_heads"]
        return cls(
            layers=config["num_hidden_layers"],
            hidden=config["hidden_size"],
            intermediate=config["intermediate_size"],
            heads=heads,
            kv_heads=config["num_key_value_heads"],
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            vocabulary=config["vocab_size"],
        )

    @property
    def layer_weights(self) -> int:
        """Weights of the layers' matrices: q, k, v, o, gate, up and down."""
        before = self.hidden * self.head_dim * (self.heads + 2 * self.kv_heads)
        return self.layers * (before + self._behind_attention)

    @property
    def _behind_attention(self) -> int:
        """Weights of o, gate, up and down of one layer: the last layer needs them for the last token only."""
        return self.hidden * (self.heads * self.head_dim + 3 * self.intermediate)

    @property
    def weight_bytes(self) -> int:
        """Bytes that a step reads of the weights: each matrix and the lm_head once, and their scales."""
        attention = self.head_dim * (self.heads + 2 * self.kv_heads) + self.hidden
        rows = self.layers * (attention + 2 * self.intermediate + self.hidden) + self.vocabulary
        return self.layer_weights + self.hidden * self.vocabulary + _SCALE_BYTES * rows

    @property
    def cache_bytes(self) -> int:
        """Bytes of the cached keys and values of one position of one sequence."""
        return 2 * self.layers * self.kv_heads * self.head_dim * _CACHE_BYTES

    def _attention(self, positions: float) -> float:
        """Operations of one token's attention: a product with each key and one with each value."""
        return 4 * self.layers * self.heads * self.head_dim * positions

    def prefill(self, tokens: int) -> Work:
        """A prompt from position 0 on, with the logits of its last token, and no other behind the last attention."""
        attention = self._attention(tokens * (tokens + 1) / 2)
        once = self._behind_attention + self.hidden * self.vocabulary
        for_all = self.layer_weights - self._behind_attention
        return Work(read=self.weight_bytes, operations=2 * for_all * tokens + 2 * once + attention)

    def decode(self, context: int, batch: int, steps: int) -> Work:
        """``batch`` sequences that decode ``steps`` tokens each after ``context`` positions, one step at a time."""
        positions = sum(context + step + 1 for step in range(steps))  # of one sequence, its own token among them
        weights = 2 * (self.layer_weights + self.hidden * self.vocabulary)
        return Work(
            read=steps * self.weight_bytes + batch * positions * self.cache_bytes,
            operations=batch * (steps * weights + self._attention(positions)),
        )
