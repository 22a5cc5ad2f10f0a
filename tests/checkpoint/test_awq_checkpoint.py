"""AWQ checkpoints: what their packed tensors mean, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.checkpoints import tensor_shapes
from support.vendor_checkpoints import assert_means, awq, change_tensors, words_of, write_vendor_checkpoint

from vamc_py.checkpoint import check_tensors, open_checkpoint
from vamc_py.errors import CheckpointError
from vamc_py.weights.formats import WeightFormat

SHAPE = {"hidden": 72, "intermediate": 120, "heads": 6, "kv_heads": 1, "head_dim": 8}
HEADS = {"hidden": 72, "intermediate": 120, "heads": 6, "kv_heads": 2, "head_dim": 12}  # K of 72 and 120 alone
Q = "model.layers.0.self_attn.q_proj"


def _settings(group: int = 24, **more: Any) -> dict[str, Any]:
    return {"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm", "zero_point": True} | more


@pytest.mark.parametrize("group", [8, 24, -1])
@pytest.mark.parametrize(("zeros", "told"), [(True, True), (False, False), (True, False)])
def test_weights_are_what_was_packed(tmp_path: Path, group: int, zeros: bool, told: bool) -> None:
    written = write_vendor_checkpoint(tmp_path, awq(group, zeros=zeros), _settings(group, zero_point=told), **HEADS)
    checkpoint = open_checkpoint(str(tmp_path), "huggingface")
    form = WeightFormat("int4", None if group == -1 else group, zeros=zeros, scale="float16")
    assert set(checkpoint.quantized.values()) == {form}
    assert_means(checkpoint, written.weights)
    check_tensors(checkpoint, tensor_shapes(written.config))


def test_one_word_by_hand(tmp_path: Path) -> None:
    """Row n of column 0 is n: the word is 0x75316420, as AWQ's order has it."""
    write_vendor_checkpoint(tmp_path, awq(8, zeros=False), _settings(8), **SHAPE)

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[f"{Q}.qweight"][0, 0] = 0x75316420

    change_tensors(tmp_path, change)
    values = open_checkpoint(str(tmp_path), "huggingface").read(f"{Q}.weight")
    assert values[:8, 0].tolist() == [n - 8 for n in range(8)]


def test_modules_that_were_not_converted_stay_plain(tmp_path: Path) -> None:
    settings = _settings(modules_to_not_convert=["k_proj"], version="GEMM")
    written = write_vendor_checkpoint(tmp_path, awq(24, zeros=True), settings, plain=("k_proj",), **SHAPE)
    checkpoint = open_checkpoint(str(tmp_path), "huggingface")
    assert checkpoint.tensors["model.layers.0.self_attn.k_proj.weight"].dtype == "bfloat16"
    assert_means(checkpoint, written.weights)


def test_what_is_not_read_is_named(tmp_path: Path) -> None:
    written = write_vendor_checkpoint(tmp_path, awq(24, zeros=True), _settings(), **SHAPE)

    def refused(match: str, **changes: Any) -> None:
        config = written.config | {"quantization_config": _settings() | changes}
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match=match):
            open_checkpoint(str(tmp_path), "huggingface")

    refused(r"config\.json: quantization_config\.version: AWQ weights in the form 'gemv' are not read", version="gemv")
    refused(r"quantization_config\.format: AWQ weights in the form 'marlin'", version=None, format="marlin")
    refused(r"quantization_config\.bits: weights of 3 bits are not read; known: 4", bits=3)
    refused(r"down_proj\.qweight has 120 columns, no multiple of the group_size 32", group_size=32)
    refused(r"down_proj\.scales has the shape \[5, 72\], not \[15, 72\] \(72 rows, 120 columns", group_size=8)
    refused(r"quantization_config\.version: a text is expected, not 2", version=2)
    change_tensors(tmp_path, lambda tensors: tensors.update({f"{Q}.qzeros": words_of(torch.ones(3, 40).int(), 4)}))
    refused(rf"{Q}\.qzeros has the shape \[3, 5\], not \[3, 6\]")
    change_tensors(tmp_path, lambda tensors: tensors.pop(f"{Q}.qzeros"))
    refused(rf"{Q}\.qzeros is missing", zero_point=False)
