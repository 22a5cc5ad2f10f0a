"""A model compiled with LoRA adapters answers as the merged one does in transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from support.adapters import ATTENTION, write_adapter
from support.checkpoints import write_checkpoint
from support.end_to_end import check_against_transformers, compile_checkpoint, reference_for

from vamc_py.runtime.executor import Executor

SHAPES = {
    ATTENTION.format(0, "q"): (64, 64),
    ATTENTION.format(1, "k"): (32, 64),
    "model.layers.1.mlp.down_proj": (64, 96),
}


def test_adapters_answer_as_the_merged_model(tmp_path: Path) -> None:
    model = tmp_path / "checkpoint"
    write_checkpoint(model, architecture="qwen3", scale=0.3)
    adapters = [tmp_path / "one", tmp_path / "two"]
    products = [
        write_adapter(folder, SHAPES, seed=seed, target_modules="all of them", r=4, lora_alpha=alpha)
        for seed, (folder, alpha) in enumerate(zip(adapters, (100, 60), strict=True))
    ]
    names = f"frontend.adapters=[{adapters[0]}, {adapters[1]}]"
    executor = Executor.load(compile_checkpoint(model, tmp_path, overrides=(names,)).folder, slots=2)

    plain = reference_for(model)
    tensors = load_file(model / "model.safetensors")
    for name in products[0]:
        added = 25 * products[0][name] + 15 * products[1][name]
        tensors[name] = (tensors[name].double() + torch.from_numpy(added)).float()
    save_file(tensors, model / "model.safetensors")
    prompts = [[5, 9, 200, 31], list(range(40, 60))]
    merged = reference_for(model)
    check_against_transformers(executor, merged, prompts, count=16)
    ids = torch.tensor([prompts[1]])
    with torch.no_grad():
        apart = np.abs((plain(ids).logits - merged(ids).logits).numpy())
    assert apart.max() > 0.1  # the adapters do change the answers
