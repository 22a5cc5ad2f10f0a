"""LoRA adapters as PEFT saves them, and what they do to a weight."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

ATTENTION = "model.layers.{}.self_attn.{}_proj"


def adapter_config(**changes: Any) -> dict[str, Any]:
    """adapter_config.json as PEFT 0.17 writes it."""
    config = {
        "alpha_pattern": {},
        "auto_mapping": None,
        "base_model_name_or_path": "some/model",
        "bias": "none",
        "corda_config": None,
        "eva_config": None,
        "exclude_modules": None,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layer_replication": None,
        "layers_pattern": None,
        "layers_to_transform": None,
        "loftq_config": {},
        "lora_alpha": 12,
        "lora_bias": False,
        "lora_dropout": 0.05,
        "megatron_config": None,
        "megatron_core": "megatron.core",
        "modules_to_save": None,
        "peft_type": "LORA",
        "qalora_group_size": 16,
        "r": 3,
        "rank_pattern": {},
        "revision": None,
        "target_modules": ["q_proj", "v_proj"],
        "target_parameters": None,
        "task_type": "CAUSAL_LM",
        "trainable_token_indices": None,
        "use_dora": False,
        "use_qalora": False,
        "use_rslora": False,
    }
    return config | changes


def write_adapter(
    folder: Path,
    shapes: dict[str, tuple[int, int]],
    *,
    ranks: dict[str, int] | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    **changes: Any,
) -> dict[str, np.ndarray]:
    """An adapter of random numbers for modules [N, K]; returns B @ A of each weight in float64, not scaled."""
    folder.mkdir(parents=True, exist_ok=True)
    config = adapter_config(**changes)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    tensors, products = {}, {}
    for module, (rows, columns) in shapes.items():
        rank = (ranks or {}).get(module, config["r"])
        rng = np.random.default_rng([seed, zlib.crc32(module.encode())])
        a = torch.from_numpy(rng.normal(size=(rank, columns)) * 0.1).to(dtype)
        b = torch.from_numpy(rng.normal(size=(rows, rank)) * 0.1).to(dtype)
        tensors[f"base_model.model.{module}.lora_A.weight"] = a
        tensors[f"base_model.model.{module}.lora_B.weight"] = b
        products[f"{module}.weight"] = (b.double() @ a.double()).numpy()
    save_file(tensors, folder / "adapter_model.safetensors")
    return products
