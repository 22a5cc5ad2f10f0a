"""What an ONNX graph says of its model where no config.json stands beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vamc_py.checkpoint.base import TensorInfo
from vamc_py.checkpoint.onnx_roles import Roles
from vamc_py.errors import CheckpointError

_MOST_POSITIONS = 1 << 20  # a dynamic graph does not say for how many its rotary embedding is meant


def derived_config(path: Path, roles: Roles, tensors: Mapping[str, TensorInfo]) -> dict[str, Any]:
    """Sizes as config.json gives them, from the shapes of the past and of tensors under Hugging Face's names.

    Rotary embedding and epsilon are in the graph and not in here. CheckpointError where names or shapes do not tell.
    """
    at = "model.layers.0."

    def rows(name: str) -> int:
        info = tensors.get(name)
        if info is None or len(info.shape) != 2:
            raise CheckpointError(
                f"{path} does not tell the model's sizes: it has no matrix {name}; put the model's config.json there"
            )
        return info.shape[0]

    vocabulary = rows("model.embed_tokens.weight")
    fixed = roles.new_length is not None and roles.past_length is not None
    positions = (roles.new_length or 0) + (roles.past_length or 0) if fixed else _MOST_POSITIONS
    return {
        "model_type": "qwen3" if f"{at}self_attn.q_norm.weight" in tensors else "qwen2",
        "hidden_size": tensors["model.embed_tokens.weight"].shape[1],
        "intermediate_size": rows(f"{at}mlp.gate_proj.weight"),
        "num_hidden_layers": roles.layers,
        "num_attention_heads": rows(f"{at}self_attn.q_proj.weight") // roles.head_dim,
        "num_key_value_heads": roles.kv_heads,
        "head_dim": roles.head_dim,
        "vocab_size": vocabulary,
        "max_position_embeddings": positions,
    }
