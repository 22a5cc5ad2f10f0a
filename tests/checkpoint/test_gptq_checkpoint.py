"""GPTQ checkpoints: what their packed tensors mean, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.checkpoints import tensor_shapes
from support.vendor_checkpoints import Written, assert_means, change_tensors, gptq, words_of, write_vendor_checkpoint

from vamc_py.checkpoint import Checkpoint, check_tensors, open_checkpoint
from vamc_py.errors import CheckpointError
from vamc_py.weights.formats import ZERO, WeightFormat

SHAPE = {"hidden": 72, "intermediate": 104, "heads": 5, "kv_heads": 1, "head_dim": 8}
Q = "model.layers.0.self_attn.q_proj"
DOWN = "model.layers.0.mlp.down_proj"


def _settings(bits: int = 4, group: int = 32, *, sym: bool = True, **more: Any) -> dict[str, Any]:
    return {"quant_method": "gptq", "bits": bits, "group_size": group, "sym": sym, "desc_act": False} | more


def _write(folder: Path, settings: dict[str, Any], *, packed_sym: bool | None = None, **shape: Any) -> Written:
    less = settings.get("checkpoint_format", "gptq") == "gptq"
    sym = settings["sym"] if packed_sym is None else packed_sym
    packer = gptq(settings["bits"], settings["group_size"], sym=sym, stored_less=int(less))
    return write_vendor_checkpoint(folder, packer, settings, **SHAPE | shape)


def _open(folder: Path) -> Checkpoint:
    return open_checkpoint(str(folder), "huggingface")


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group", [8, 32, 128, -1])
@pytest.mark.parametrize(("sym", "version"), [(True, "gptq"), (False, "gptq"), (True, "gptq_v2"), (False, "gptq_v2")])
def test_weights_are_what_was_packed(tmp_path: Path, bits: int, group: int, sym: bool, version: str) -> None:
    written = _write(tmp_path, _settings(bits, group, sym=sym, checkpoint_format=version))
    checkpoint = _open(tmp_path)
    values = "int4" if bits == 4 else "int8"
    form = WeightFormat(values, None if group == -1 else group, zeros=not sym, scale="float16")
    assert set(checkpoint.quantized.values()) == {form}
    assert_means(checkpoint, written.weights)
    check_tensors(checkpoint, tensor_shapes(written.config))
    assert not [name for name in checkpoint.tensors if name.endswith(("qweight", "qzeros", "scales", "g_idx"))]


def test_the_format_may_be_told_by_either_key(tmp_path: Path) -> None:
    written = _write(tmp_path, _settings(sym=False, checkpoint_format="gptq_v2"))
    for told in ({"format": "gptq_v2"}, {"format": "gptq_v2", "checkpoint_format": "gptq_v2"}):
        config = written.config | {"quantization_config": _settings(sym=False, **told)}
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert_means(_open(tmp_path), written.weights)


def test_zero_points_that_are_not_the_middle_count_even_where_the_config_says_sym(tmp_path: Path) -> None:
    written = _write(tmp_path, _settings(), packed_sym=False)
    checkpoint = _open(tmp_path)
    assert all(form.zeros for form in checkpoint.quantized.values())
    assert_means(checkpoint, written.weights)


@pytest.mark.parametrize(("dtype", "kept"), [(torch.bfloat16, "float32"), (torch.float32, "float32")])
def test_scales_of_other_types_are_kept_exactly(tmp_path: Path, dtype: torch.dtype, kept: str) -> None:
    packer = gptq(4, 32, sym=True, stored_less=1, dtype=dtype)
    written = write_vendor_checkpoint(tmp_path, packer, _settings(), **SHAPE)
    checkpoint = _open(tmp_path)
    assert {form.scale for form in checkpoint.quantized.values()} == {kept}
    assert_means(checkpoint, written.weights)


def test_modules_that_were_not_converted_stay_plain(tmp_path: Path) -> None:
    written = write_vendor_checkpoint(
        tmp_path,
        gptq(4, 32, sym=True, stored_less=1),
        _settings(dynamic={"-:.*down_proj": {}}, lm_head=False),
        plain=("down_proj",),
        **SHAPE,
    )
    checkpoint = _open(tmp_path)
    assert f"{DOWN}.weight" not in checkpoint.quantized
    assert checkpoint.tensors[f"{DOWN}.weight"].dtype == "bfloat16"
    assert checkpoint.read(f"{DOWN}.weight", 1, 3).shape == (2, 104)
    assert_means(checkpoint, written.weights)
    check_tensors(checkpoint, tensor_shapes(written.config))


def test_zero_points_read_in_pieces_are_all_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of few integers: the last of many groups is the only one that is not the middle."""
    monkeypatch.setattr("vamc_py.checkpoint.quantized.packing._PIECE", 16)
    written = _write(tmp_path, _settings(group=8))

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[f"{DOWN}.qzeros"][-1, -1] += 1  # the zero point of the last word's first row

    change_tensors(tmp_path, change)
    checkpoint = _open(tmp_path)
    assert [name for name, form in checkpoint.quantized.items() if form.zeros] == [f"{DOWN}.weight"]
    expected = np.zeros((72, 13))
    expected[64, -1] = 1
    np.testing.assert_array_equal(checkpoint.read(f"{DOWN}.weight{ZERO}"), expected)
    del written.weights[f"{DOWN}.weight"]
    checkpoint.quantized = {name: form for name, form in checkpoint.quantized.items() if not form.zeros}
    assert_means(checkpoint, written.weights)


def test_desc_act_is_read_where_it_made_no_difference(tmp_path: Path) -> None:
    written = _write(tmp_path, _settings(desc_act=True))
    assert_means(_open(tmp_path), written.weights)

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[f"{Q}.g_idx"][[0, 40]] = tensors[f"{Q}.g_idx"][[40, 0]]

    change_tensors(tmp_path, change)
    with pytest.raises(CheckpointError, match=rf"safetensors: {Q}\.g_idx groups columns by their activations"):
        _open(tmp_path)
    change_tensors(tmp_path, lambda tensors: tensors.pop(f"{Q}.g_idx"))
    with pytest.raises(CheckpointError, match=rf"{Q}\.g_idx is missing"):
        _open(tmp_path)


def test_biases_of_zeros_that_the_model_does_not_have_are_passed_over(tmp_path: Path) -> None:
    written = _write(tmp_path, _settings())
    bias = torch.zeros(40, dtype=torch.float16)
    change_tensors(tmp_path, lambda tensors: tensors.update({f"{Q}.bias": bias}))
    check_tensors(_open(tmp_path), tensor_shapes(written.config))
    bias[3] = 0.5
    change_tensors(tmp_path, lambda tensors: tensors.update({f"{Q}.bias": bias}))
    with pytest.raises(CheckpointError, match=rf"{Q}\.bias has no place in the model"):
        check_tensors(_open(tmp_path), tensor_shapes(written.config))


def test_a_zero_point_that_readers_disagree_on_is_refused_when_it_is_read(tmp_path: Path) -> None:
    _write(tmp_path, _settings(sym=False))

    def change(tensors: dict[str, torch.Tensor]) -> None:
        stored = np.full((3, 40), 7)
        stored[1, 19] = 15
        tensors[f"{Q}.qzeros"] = words_of(stored, 4)

    change_tensors(tmp_path, change)
    checkpoint = _open(tmp_path)
    assert not checkpoint.read(f"{Q}.weight{ZERO}", 0, 19).any()
    with pytest.raises(CheckpointError, match=rf"{Q}\.qzeros stores 15 for a zero point less 1, first for row 19,"):
        checkpoint.read(f"{Q}.weight{ZERO}", 17, 30)


def test_damaged_tensors_are_named(tmp_path: Path) -> None:
    _write(tmp_path, _settings())
    whole = (tmp_path / "model.safetensors").read_bytes()

    def refused(match: str, **changes: torch.Tensor | None) -> None:
        def change(tensors: dict[str, torch.Tensor]) -> None:
            for part, tensor in changes.items():
                del tensors[f"{Q}.{part}"]
                if tensor is not None:
                    tensors[f"{Q}.{part}"] = tensor

        (tmp_path / "model.safetensors").write_bytes(whole)
        change_tensors(tmp_path, change)
        with pytest.raises(CheckpointError, match=match) as error:
            _open(tmp_path)
        assert str(tmp_path) in str(error.value)
        assert "\n" not in str(error.value)

    why = r"\(40 rows, 72 columns of 4 bits in groups of 32\)"
    refused(rf"{Q}\.scales is missing {why}", scales=None)
    refused(rf"{Q}\.qzeros is missing {why}", qzeros=None)
    refused(rf"safetensors: {Q}\.scales has the shape \[2, 40\], not \[3, 40\] {why}", scales=torch.ones(2, 40))
    refused(rf"{Q}\.scales is int32, not float16", scales=torch.ones(3, 40, dtype=torch.int32))
    refused(rf"{Q}\.qweight is float32, not int32", qweight=torch.ones(9, 40))
    refused(rf"{Q}\.qweight has the shape \[9\], not \[any, any\]", qweight=torch.ones(9, dtype=torch.int32))
    refused(rf"{Q}\.qweight has the shape \[0, 40\]", qweight=torch.ones(0, 40, dtype=torch.int32))
    refused(rf"{Q}\.qweight has 39 rows, no multiple of the 8", qweight=torch.ones(9, 39, dtype=torch.int32))
    refused(rf"{Q}\.qzeros has the shape \[3, 4\], not \[3, 5\]", qzeros=torch.ones(3, 4, dtype=torch.int32))
    refused(rf"{Q}\.g_idx has the shape \[71\]", g_idx=torch.zeros(71, dtype=torch.int32))


def test_a_weight_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    _write(tmp_path, _settings())
    change_tensors(tmp_path, lambda tensors: tensors.update({f"{Q}.weight": torch.ones(40, 72)}))
    with pytest.raises(CheckpointError, match=rf"{Q}\.weight is there beside the quantized {Q}\.qweight"):
        _open(tmp_path)


def test_scales_that_are_no_numbers_are_refused_when_they_are_read(tmp_path: Path) -> None:
    _write(tmp_path, _settings())

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[f"{Q}.scales"][1, 7] = torch.inf

    change_tensors(tmp_path, change)
    checkpoint = _open(tmp_path)
    checkpoint.read(f"{Q}.weight.scale", 0, 7)
    with pytest.raises(CheckpointError, match=rf"safetensors: {Q}\.scales has scales that are no numbers, .* row 7"):
        checkpoint.read(f"{Q}.weight.scale", 5, 9)


def test_settings_that_are_not_read_are_named(tmp_path: Path) -> None:
    written = _write(tmp_path, _settings())

    def refused(match: str, **changes: Any) -> None:
        config = written.config | {"quantization_config": _settings() | changes}
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match=match):
            _open(tmp_path)

    refused(r"config\.json: quantization_config\.bits: weights of 3 bits are not read; known: 4, 8", bits=3)
    refused(r"quantization_config\.bits: the key is missing", bits=None)
    refused(r"quantization_config\.group_size: 12 is no multiple of 8", group_size=12)
    refused(r"quantization_config\.group_size: 0 is no multiple of 8", group_size=0)
    refused(r"quantization_config\.checkpoint_format: 'marlin' is not supported", checkpoint_format="marlin")
    refused(r"format: 'gptq_p' is not supported; known: gptq, gptq_v2", format="gptq_p")
    two = {"format": "gptq_v2", "checkpoint_format": "gptq"}
    refused(r"format: gptq_v2 contradicts the checkpoint_format gptq", **two)
    refused(r"rotation: weights that need other activations", rotation="hadamard")
    refused(r"is_marlin_format: weights in Marlin's order", is_marlin_format=True)
    refused(r"dynamic: settings of their own for '\+:.\*down' are not read", dynamic={"+:.*down": {"bits": 8}})
    refused(r"pack_dtype: 'int64' is not supported", pack_dtype="int64")
    refused(
        r"quant_method: weights quantized by bitsandbytes are not read; known: gptq, awq", quant_method="bitsandbytes"
    )
    refused(r"quant_method: the key is missing", quant_method=None)
    refused(r"down_proj\.scales has the shape \[4, 72\], not \[7, 72\] \(72 rows", group_size=16)


def test_a_config_that_speaks_of_weights_that_are_not_there(tmp_path: Path) -> None:
    write_vendor_checkpoint(tmp_path, gptq(4, 32, sym=True, stored_less=1), _settings(), plain=("proj",), **SHAPE)
    with pytest.raises(
        CheckpointError, match=r"quantization_config: it says gptq, and no weight is stored in that form"
    ):
        _open(tmp_path)


def test_the_fingerprint_and_the_tokenizer_are_the_checkpoints(tmp_path: Path) -> None:
    def fingerprint(name: str, **changes: Any) -> str:
        _write(tmp_path / name, _settings() | changes)
        return _open(tmp_path / name).fingerprint()

    assert fingerprint("a") == fingerprint("b")
    assert fingerprint("a") != fingerprint("c", group_size=24)
    (tmp_path / "out").mkdir()
    _open(tmp_path / "a").save_tokenizer(tmp_path / "out")
    assert (tmp_path / "out/tokenizer.json").read_bytes() == (tmp_path / "a/tokenizer.json").read_bytes()
    assert _open(tmp_path / "a").file_of(f"{Q}.weight{ZERO}") == tmp_path / "a/model.safetensors"
