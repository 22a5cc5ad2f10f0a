"""Quantized checkpoints with damaged files or senseless settings: read, or refused by a CheckpointError."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.damage import (
    Damage,
    change_dtype,
    change_offsets,
    change_shape,
    flip_header,
    rename_tensor,
    same_size_dtype,
)
from support.vendor_checkpoints import awq, fp8, gptq, int8_tensors, packed_tensors, write_vendor_checkpoint

from vamc_py.checkpoint import open_checkpoint
from vamc_py.errors import CheckpointError

SHAPE = {"hidden": 48, "intermediate": 72, "heads": 3, "kv_heads": 1, "head_dim": 8}
WEIGHTS = {"num_bits": 4, "type": "int", "symmetric": False, "strategy": "group", "group_size": 16, "actorder": None}
GROUP = {"targets": ["re:.*proj", "Linear"], "weights": WEIGHTS, "input_activations": None, "format": None}
TENSORS = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0": GROUP}}
INT8 = {"num_bits": 8, "symmetric": True, "strategy": "channel", "group_size": None, "dynamic": False}
VENDORS: dict[str, tuple[Any, dict[str, Any]]] = {
    "gptq": (
        gptq(4, 16, sym=False, stored_less=1),
        {"quant_method": "gptq", "bits": 4, "group_size": 16, "sym": False, "desc_act": False, "dynamic": {}},
    ),
    "awq": (
        awq(24, zeros=True),
        {"quant_method": "awq", "bits": 4, "group_size": 24, "version": "gemm", "zero_point": True},
    ),
    "fp8": (
        fp8((16, 32)),
        {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [16, 32]},
    ),
    "packed": (packed_tensors(4, 16, sym=False), TENSORS),
    "int8": (
        int8_tensors(-1, sym=True),
        TENSORS | {"format": "int-quantized", "config_groups": {"group_0": GROUP | {"weights": INT8}}},
    ),
}
VALUES = [None, "x", "", 0, -1, 3, 8, 10**12, 1.5, True, [], [1], ["("], {}, {"x": 1}, [128, 128]]


@pytest.fixture(scope="module", params=VENDORS)
def clean(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    packer, settings = VENDORS[request.param]
    shape = SHAPE | ({"heads": 6} if request.param == "awq" else {"heads": 3})
    write_vendor_checkpoint(folder, packer, settings, **shape)
    return folder


def _read(folder: Path) -> str | None:
    """Everything in it; the refusal, if there is one, names the folder."""
    try:
        checkpoint = open_checkpoint(str(folder), "huggingface")
        for name, info in checkpoint.tensors.items():
            rows = checkpoint.read(name)
            assert (rows.shape, rows.dtype.name) == (info.shape, info.dtype)
        checkpoint.fingerprint()
        refusal = None
    except CheckpointError as error:
        refusal = str(error)
    assert refusal is None or str(folder) in refusal
    return refusal


@pytest.mark.parametrize(
    "damage", [change_dtype, same_size_dtype, change_shape, change_offsets, rename_tensor, flip_header]
)
def test_damaged_headers(clean: Path, tmp_path: Path, damage: Damage) -> None:
    for seed in range(8):
        folder = shutil.copytree(clean, tmp_path / str(seed))
        damage(folder, random.Random(f"{damage.__name__} {seed}"))
        _read(folder)  # what no longer belongs to a quantized weight is left for check_tensors


def _places(settings: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    for key, value in settings.items():
        yield settings, key
        if isinstance(value, dict):
            yield from _places(value)


def test_senseless_settings(clean: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(clean, tmp_path / "model")
    text = (folder / "config.json").read_text()
    count = len(list(_places(json.loads(text)["quantization_config"])))
    refused = 0
    for place in range(count):
        for value in VALUES:
            config = json.loads(text)
            settings, key = list(_places(config["quantization_config"]))[place]
            settings[key] = value
            (folder / "config.json").write_text(json.dumps(config))
            refused += _read(folder) is not None
    assert refused > count * len(VALUES) / 3
    for value in VALUES:
        (folder / "config.json").write_text(json.dumps(json.loads(text) | {"quantization_config": value}))
        assert (_read(folder) is None) == (value is None)
