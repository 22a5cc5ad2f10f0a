"""Float8 checkpoints with a scale for each block: what they mean, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.checkpoints import tensor_shapes
from support.vendor_checkpoints import assert_means, change_tensors, fp8, write_vendor_checkpoint

from vamc_py.checkpoint import check_tensors, open_checkpoint
from vamc_py.errors import CheckpointError
from vamc_py.weights.formats import WeightFormat

SHAPE = {"hidden": 45, "intermediate": 139, "heads": 5, "kv_heads": 1, "head_dim": 6}
Q = "model.layers.0.self_attn.q_proj"
UP = "model.layers.0.mlp.up_proj"


def _settings(block: tuple[int, int] | None = (128, 128), **more: Any) -> dict[str, Any]:
    size = None if block is None else list(block)
    return {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": size} | more


@pytest.mark.parametrize("block", [(128, 128), (16, 32), (7, 13), (1, 200), None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_are_what_was_stored(tmp_path: Path, block: tuple[int, int] | None, dtype: torch.dtype) -> None:
    written = write_vendor_checkpoint(tmp_path, fp8(block, dtype), _settings(block), **SHAPE)
    checkpoint = open_checkpoint(str(tmp_path), "huggingface")
    assert set(checkpoint.quantized.values()) == {WeightFormat("float8_e4m3fn", block[1] if block else None)}
    assert_means(checkpoint, written.weights)
    check_tensors(checkpoint, tensor_shapes(written.config))


def test_values_are_views_of_the_mapped_file(tmp_path: Path) -> None:
    write_vendor_checkpoint(tmp_path, fp8((128, 128)), _settings(), **SHAPE)
    rows = open_checkpoint(str(tmp_path), "huggingface").read(f"{UP}.weight", 3, 9)
    assert not rows.flags.owndata


def test_scales_of_activations_are_left_out(tmp_path: Path) -> None:
    settings = _settings(activation_scheme="static", modules_to_not_convert=["lm_head"])
    written = write_vendor_checkpoint(tmp_path, fp8((16, 16)), settings | {"weight_block_size": [16, 16]}, **SHAPE)
    more = {f"{Q}.input_scale": torch.ones(1), f"{UP}.activation_scale": torch.ones(1)}
    change_tensors(tmp_path, lambda tensors: tensors.update(more))
    checkpoint = open_checkpoint(str(tmp_path), "huggingface")
    assert not set(more) & set(checkpoint.tensors)
    check_tensors(checkpoint, tensor_shapes(written.config))
    assert_means(checkpoint, written.weights)


@pytest.mark.parametrize("code", [0x7F, 0xFF])
def test_values_that_are_no_numbers_are_refused_when_they_are_read(tmp_path: Path, code: int) -> None:
    write_vendor_checkpoint(tmp_path, fp8((128, 128)), _settings(), **SHAPE)

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[f"{UP}.weight"].view(torch.uint8)[[5, 20, 21], [44, 0, 3]] = code
        tensors[f"{UP}.weight"].view(torch.uint8)[6] = 0x7E  # 448, the largest

    change_tensors(tmp_path, change)
    checkpoint = open_checkpoint(str(tmp_path), "huggingface")
    assert (checkpoint.read(f"{UP}.weight", 6, 20)[0].astype(np.float32) == 448).all()
    with pytest.raises(
        CheckpointError, match=rf"safetensors: {UP}\.weight has values that are no numbers in rows 5, 20, 21"
    ):
        checkpoint.read(f"{UP}.weight")


def test_what_is_not_read_is_named(tmp_path: Path) -> None:
    written = write_vendor_checkpoint(tmp_path, fp8((128, 128)), _settings(), **SHAPE)
    whole = (tmp_path / "model.safetensors").read_bytes()

    def refused(match: str, part: str = "", tensor: torch.Tensor | None = None, **changes: Any) -> None:
        def change(tensors: dict[str, torch.Tensor]) -> None:
            tensors.pop(part, None)
            if tensor is not None:
                tensors[part] = tensor

        config = written.config | {"quantization_config": _settings() | changes}
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "model.safetensors").write_bytes(whole)
        change_tensors(tmp_path, change)
        with pytest.raises(CheckpointError, match=match):
            open_checkpoint(str(tmp_path), "huggingface")

    scale = f"{Q}.weight_scale_inv"
    refused(r"config\.json: quantization_config\.fmt: 'e5m2' is not supported", fmt="e5m2")
    refused(r"activation_scheme: 'token' is not supported", activation_scheme="token")
    for size in ([128], 128, [128, 0], ["a", "b"], [True, 128]):
        refused(r"quantization_config\.weight_block_size: two sizes such as \[128, 128\]", weight_block_size=size)
    refused(rf"{scale} is missing \(a scale for each block of 128 x 128 of 30 x 45\)", scale)
    refused(rf"{scale} has the shape \[2, 1\], not \[1, 1\]", scale, torch.ones(2, 1))
    refused(rf"{scale} is int32, not float16 or bfloat16 or float32", scale, torch.ones(1, 1, dtype=torch.int32))
    refused(r"down_proj\.weight_scale_inv has the shape \[1, 2\], not \[1, 1\]", weight_block_size=None)
    refused(rf"{Q}\.weight is float8_e5m2, not float8_e4m3fn", f"{Q}.weight", torch.ones(30, 45).to(torch.float8_e5m2))
    refused(rf"{Q}\.weight is bfloat16, not float8_e4m3fn", f"{Q}.weight", torch.ones(30, 45, dtype=torch.bfloat16))
    refused(rf"{scale} has no {Q}\.weight that it could belong to", f"{Q}.weight")
