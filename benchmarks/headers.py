"""Checkpoints that have a shape and no weights: the header of a safetensors file, and a hole for its data."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from benchmarks.checkpoints import write_json
from vamc_py.frontend.model_config import ModelConfig, expected_tensors

_ITEM_BYTES = 2  # of bfloat16


def write_headers(folder: Path, config: dict[str, Any]) -> int:
    """config.json and model.safetensors with every tensor that `config` implies, in bfloat16.

    The file has its full length and takes a few blocks of disk; what is read of its data are zeros. Returns the bytes
    that the weights would have.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config)
    header, end = {}, 0
    for name, shape in expected_tensors(ModelConfig.from_hf(config, "config.json")).items():
        start, end = end, end + _ITEM_BYTES * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(file.tell() + end)
    return end
