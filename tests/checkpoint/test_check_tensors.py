"""Missing, misshapen, ill-typed and surplus tensors are named."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.checkpoints import tensor_shapes, write_checkpoint, write_weights
from support.vendor_checkpoints import gptq, write_vendor_checkpoint

from vamc_py.checkpoint import Checkpoint, check_tensors, open_checkpoint
from vamc_py.errors import CheckpointError

HEAD = "lm_head.weight"


def _open(folder: Path, shapes: dict[str, tuple[int, ...]], dtype: str = "float32") -> Checkpoint:
    write_weights(folder, shapes, dtype=dtype)
    return open_checkpoint(str(folder), "huggingface")


def test_all_faults_come_at_once(tmp_path: Path) -> None:
    shapes = tensor_shapes(write_checkpoint(tmp_path, architecture="qwen3"))
    found = dict(shapes)
    del found["model.norm.weight"]
    found["model.layers.1.mlp.up_proj.weight"] = (96, 65)
    found["model.layers.0.self_attn.q_proj.bias"] = (64,)
    with pytest.raises(CheckpointError) as error:
        check_tensors(_open(tmp_path, found), shapes)
    message = str(error.value)
    assert "model.norm.weight is missing" in message
    assert (
        "model.safetensors: model.layers.1.mlp.up_proj.weight has the shape [96, 65]; the config asks for [96, 64]"
        in (message)
    )
    assert "model.layers.0.self_attn.q_proj.bias has no place in the model" in message


def test_a_long_list_ends_in_a_count(tmp_path: Path) -> None:
    shapes = tensor_shapes(write_checkpoint(tmp_path, architecture="qwen3"))
    with pytest.raises(CheckpointError) as error:
        check_tensors(_open(tmp_path, {HEAD: shapes["model.embed_tokens.weight"]}), shapes, {HEAD: (288, 64)})
    assert str(error.value).count("is missing") == 10
    assert f"and {len(shapes) - 10} more" in str(error.value)


def test_optional_tensors_may_be_absent_but_not_misshapen(tmp_path: Path) -> None:
    shapes = tensor_shapes(write_checkpoint(tmp_path, architecture="qwen3"))
    optional = {HEAD: (288, 64)}
    check_tensors(_open(tmp_path, shapes), shapes, optional)
    check_tensors(_open(tmp_path, shapes | optional), shapes, optional)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight has the shape \[1, 64\]"):
        check_tensors(_open(tmp_path, shapes | {HEAD: (1, 64)}), shapes, optional)


def test_derived_buffers_of_old_checkpoints_are_passed_over(tmp_path: Path) -> None:
    shapes = tensor_shapes(write_checkpoint(tmp_path, architecture="llama"))
    check_tensors(_open(tmp_path, shapes | {"model.layers.0.self_attn.rotary_emb.inv_freq": (8,)}), shapes)


def test_a_dtype_that_holds_no_weights(tmp_path: Path) -> None:
    shapes = tensor_shapes(write_checkpoint(tmp_path, architecture="qwen2"))
    weights = tmp_path / "model.safetensors"
    header_size = int.from_bytes(weights.read_bytes()[:8], "little")
    content = weights.read_bytes()
    header = content[8 : 8 + header_size].replace(b'"F32"', b'"I32"', 1)
    weights.write_bytes(content[:8] + header + content[8 + header_size :])
    with pytest.raises(CheckpointError, match=r"model\.embed_tokens\.weight is int32; weights can be float32"):
        check_tensors(open_checkpoint(str(tmp_path), "huggingface"), shapes)


def test_a_weight_that_comes_quantized_must_have_the_models_shape(tmp_path: Path) -> None:
    packer = gptq(4, 8, sym=False, stored_less=1)
    config = write_vendor_checkpoint(
        tmp_path, packer, {"quant_method": "gptq", "bits": 4, "group_size": 8, "sym": False}
    )
    shapes = tensor_shapes(config.config)
    name = "model.layers.0.mlp.up_proj.weight"
    checkpoint = open_checkpoint(str(tmp_path), "huggingface")
    check_tensors(checkpoint, shapes)
    with pytest.raises(CheckpointError) as error:
        check_tensors(checkpoint, shapes | {name: (96, 72)})
    assert f"{name} has the shape [96, 64]; the config asks for [96, 72]" in str(error.value)
    assert f"{name}.scale has the shape [96, 8]; the config asks for [96, 9]" in str(error.value)
    del shapes[name]
    with pytest.raises(CheckpointError, match=rf"{name}\.zero has no place in the model"):
        check_tensors(checkpoint, shapes)
