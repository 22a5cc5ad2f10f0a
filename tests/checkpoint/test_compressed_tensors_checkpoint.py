"""Checkpoints of compressed-tensors: what their tensors mean, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.checkpoints import tensor_shapes
from support.vendor_checkpoints import (
    Packer,
    assert_means,
    change_tensors,
    int8_tensors,
    packed_tensors,
    words_of,
    write_vendor_checkpoint,
)

from vamc_py.checkpoint import check_tensors, open_checkpoint
from vamc_py.errors import CheckpointError
from vamc_py.weights.formats import WeightFormat

SHAPE = {"hidden": 45, "intermediate": 51, "heads": 5, "kv_heads": 1, "head_dim": 6}
Q = "model.layers.0.self_attn.q_proj"
DOWN = "model.layers.0.mlp.down_proj"


def _weights(bits: int = 4, group: int | None = 16, *, sym: bool = True, **more: Any) -> dict[str, Any]:
    strategy = {None: "tensor", -1: "channel"}.get(group, "group")
    size = group if strategy == "group" else None
    told = {"num_bits": bits, "type": "int", "symmetric": sym, "strategy": strategy, "group_size": size}
    return told | {"dynamic": False, "actorder": None, "observer": "minmax"} | more


def _group(weights: dict[str, Any], targets: Any = ("Linear",), **more: Any) -> dict[str, Any]:
    return {"targets": targets, "weights": weights, "input_activations": None, "output_activations": None} | more


def _settings(*groups: dict[str, Any], form: str = "pack-quantized", **more: Any) -> dict[str, Any]:
    named = {f"group_{index}": group for index, group in enumerate(groups)}
    told = {"quant_method": "compressed-tensors", "format": form, "config_groups": named, "ignore": ["lm_head"]}
    return told | {"kv_cache_scheme": None, "quantization_status": "compressed"} | more


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group", [8, 32, -1])
@pytest.mark.parametrize("sym", [True, False])
def test_packed_weights_are_what_was_packed(tmp_path: Path, bits: int, group: int, sym: bool) -> None:
    settings = _settings(_group(_weights(bits, group, sym=sym)))
    written = write_vendor_checkpoint(tmp_path, packed_tensors(bits, group, sym=sym), settings, **SHAPE)
    checkpoint = open_checkpoint(str(tmp_path), "huggingface")
    values = "int4" if bits == 4 else "int8"
    form = WeightFormat(values, None if group == -1 else group, zeros=not sym, scale="float32")
    assert set(checkpoint.quantized.values()) == {form}
    assert_means(checkpoint, written.weights)
    check_tensors(checkpoint, tensor_shapes(written.config))


@pytest.mark.parametrize("group", [16, -1, None])
@pytest.mark.parametrize("sym", [True, False])
def test_int8_weights_are_what_was_stored(tmp_path: Path, group: int | None, sym: bool) -> None:
    sym = sym or group is None
    settings = _settings(_group(_weights(8, group, sym=sym)), form="int-quantized")
    written = write_vendor_checkpoint(tmp_path, int8_tensors(group, sym=sym), settings, **SHAPE)
    checkpoint = open_checkpoint(str(tmp_path), "huggingface")
    assert set(checkpoint.quantized.values()) == {WeightFormat("int8", group if group == 16 else None, zeros=not sym)}
    assert_means(checkpoint, written.weights)
    check_tensors(checkpoint, tensor_shapes(written.config))


def test_scales_in_float16_stay_so(tmp_path: Path) -> None:
    packer = packed_tensors(4, 16, sym=True, dtype=torch.float16)
    written = write_vendor_checkpoint(tmp_path, packer, _settings(_group(_weights())), **SHAPE)
    checkpoint = open_checkpoint(str(tmp_path), "huggingface")
    assert {form.scale for form in checkpoint.quantized.values()} == {"float16"}
    assert_means(checkpoint, written.weights)


def test_groups_of_the_config_are_found_by_name_pattern_and_class(tmp_path: Path) -> None:
    def pack(rows: int, columns: int, rng: Any) -> Any:
        fits: Packer = packed_tensors(8, -1, sym=True) if columns == 51 else packed_tensors(4, 16, sym=False)
        return int8_tensors(16, sym=True)(rows, columns, rng) if rows == 30 else fits(rows, columns, rng)

    settings = _settings(
        _group(_weights(4, 16, sym=False), format="pack-quantized"),
        _group(_weights(8, -1), ("re:.*\\.down_proj$",), format="pack-quantized"),
        _group(_weights(8, 16), (Q,), format="int-quantized"),
        form="mixed-precision",
    )
    written = write_vendor_checkpoint(tmp_path, pack, settings, **SHAPE)
    checkpoint = open_checkpoint(str(tmp_path), "huggingface")
    assert checkpoint.quantized[f"{Q}.weight"] == WeightFormat("int8", 16)
    assert checkpoint.quantized[f"{DOWN}.weight"] == WeightFormat("int8")
    assert checkpoint.quantized["model.layers.0.mlp.up_proj.weight"] == WeightFormat("int4", 16, zeros=True)
    assert_means(checkpoint, written.weights)


def test_what_is_ignored_stays_plain_and_zero_points_of_zero_are_passed_over(tmp_path: Path) -> None:
    settings = _settings(_group(_weights(8, 16)), form="int-quantized")
    written = write_vendor_checkpoint(tmp_path, int8_tensors(16, sym=True), settings, plain=("k_proj",), **SHAPE)
    zeros = torch.zeros(30, 3, dtype=torch.int8)
    more = {f"{Q}.weight_zero_point": zeros, f"{Q}.weight_g_idx": torch.arange(45, dtype=torch.int32) // 16}
    change_tensors(tmp_path, lambda tensors: tensors.update(more))
    checkpoint = open_checkpoint(str(tmp_path), "huggingface")
    assert checkpoint.tensors["model.layers.0.self_attn.k_proj.weight"].dtype == "bfloat16"
    assert_means(checkpoint, written.weights)
    check_tensors(checkpoint, tensor_shapes(written.config))
    zeros[29, 2] = 1
    change_tensors(tmp_path, lambda tensors: tensors.update(more))
    with pytest.raises(CheckpointError, match=rf"{Q}\.weight_zero_point has zero points, and the config says"):
        open_checkpoint(str(tmp_path), "huggingface")


def test_settings_that_are_not_read_are_named(tmp_path: Path) -> None:
    written = write_vendor_checkpoint(tmp_path, packed_tensors(4, 16, sym=True), _settings(_group(_weights())), **SHAPE)

    def refused(match: str, settings: dict[str, Any]) -> None:
        (tmp_path / "config.json").write_text(json.dumps(written.config | {"quantization_config": settings}))
        with pytest.raises(CheckpointError, match=match):
            open_checkpoint(str(tmp_path), "huggingface")

    def group(match: str, **changes: Any) -> None:
        refused(rf"quantization_config\.config_groups\.group_0\.{match}", _settings(_group(_weights(), **changes)))

    def weights(match: str, **changes: Any) -> None:
        refused(rf"config_groups\.group_0\.weights\.{match}", _settings(_group(_weights(**changes))))

    group(r"input_activations: quantized activations \(w8a8, .*\) are not read", input_activations={"num_bits": 8})
    group(r"output_activations: quantized activations", output_activations={"num_bits": 8})
    group(r"format: 'float-quantized' is not supported; known: pack-quantized, int-qu", format="float-quantized")
    group(r"targets: a list of names and patterns is expected, not 'Linear'", targets="Linear")
    group(r"targets: '\(' is no regular expression", targets=["re:("])
    weights(r"num_bits: weights of 3 bits are not read; known: 4, 8", bits=3)
    weights(r"type: 'float' is not supported; known: int", type="float")
    weights(r"group_size: 12 is no multiple of 8", group=12)
    weights(r"strategy: 'block' is not supported", strategy="block")
    weights(r"strategy: channel and group_size 16 contradict each other", strategy="channel")
    weights(r"strategy: a zero point for a whole weight is not read", group=None, sym=False)
    weights(r"dynamic: weights that are quantized while", dynamic=True)
    refused(rf"{Q}\.weight_g_idx is missing", _settings(_group(_weights(actorder="group"), (Q,)), _group(_weights())))
    refused(r"config_groups: an object is expected", _settings(_group(_weights()), config_groups=["W4A16"]))
    refused(r"kv_cache_scheme: a quantized KV cache is not read", _settings(_group(_weights()), kv_cache_scheme={}))
    refused(
        r"sparsity_config\.format: 'sparse-24'", _settings(_group(_weights()), sparsity_config={"format": "sparse-24"})
    )
    rotated = {"config_groups": {"R1": {"type": "hadamard"}}}
    refused(r"transform_config: rotated weights need", _settings(_group(_weights()), transform_config=rotated))
    refused(
        rf"{DOWN}\.weight_packed is quantized, and no group .* names its module", _settings(_group(_weights(), (Q,)))
    )
    refused(
        r"weight_packed has no place in the format int-quantized", _settings(_group(_weights(8)), form="int-quantized")
    )


def test_damaged_tensors_are_named(tmp_path: Path) -> None:
    settings = _settings(_group(_weights(sym=False)))
    write_vendor_checkpoint(tmp_path, packed_tensors(4, 16, sym=False), settings, **SHAPE)
    whole = (tmp_path / "model.safetensors").read_bytes()

    def refused(match: str, part: str, tensor: torch.Tensor | None = None) -> None:
        def change(tensors: dict[str, torch.Tensor]) -> None:
            tensors.pop(f"{Q}.{part}", None)
            if tensor is not None:
                tensors[f"{Q}.{part}"] = tensor

        (tmp_path / "model.safetensors").write_bytes(whole)
        change_tensors(tmp_path, change)
        with pytest.raises(CheckpointError, match=match):
            open_checkpoint(str(tmp_path), "huggingface")

    why = r"\(30 rows, 45 columns of 4 bits in groups of 16\)"
    refused(rf"{Q}\.weight_scale is missing {why}", "weight_scale")
    refused(rf"{Q}\.weight_scale has the shape \[30, 2\], not \[30, 3\] {why}", "weight_scale", torch.ones(30, 2))
    refused(rf"{Q}\.weight_zero_point is missing {why}", "weight_zero_point")
    refused(
        r"weight_zero_point has the shape \[3, 3\], not \[4, 3\]",
        "weight_zero_point",
        words_of(torch.ones(3, 24).int(), 4),
    )
    refused(rf"{Q}\.weight_shape is missing", "weight_shape")
    refused(
        rf"{Q}\.weight_shape says \[30, 49\], and .* 30 rows of 6 words of 8", "weight_shape", torch.tensor([30, 49])
    )
    order = torch.zeros(45, dtype=torch.int32)
    refused(rf"{Q}\.weight_g_idx groups columns by their activations", "weight_g_idx", order)
    weight = torch.ones(30, 45, dtype=torch.int8)
    refused(rf"{Q}\.weight has no place in the format pack-quantized", "weight", weight)
