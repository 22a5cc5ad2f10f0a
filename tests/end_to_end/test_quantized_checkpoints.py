"""Checkpoints that come quantized, compiled as they are: logits of the model with the dequantized weights.

One for each kind of kernel; how each vendor's numbers are read is tested beside the readers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.end_to_end import compile_checkpoint, configuration, reference_model, relative_error
from support.vendor_checkpoints import Packer, awq, fp8, gptq, write_vendor_checkpoint

from vamc_py.artifact.verify import read_manifest
from vamc_py.checkpoint import open_checkpoint
from vamc_py.compiler import compile_config
from vamc_py.errors import ConfigError
from vamc_py.runtime.executor import Executor

# Rows and columns that are no multiples of a panel, a vector or, but for AWQ, a group.
SHAPE: dict[str, Any] = {"layers": 2, "hidden": 80, "intermediate": 176, "heads": 5, "kv_heads": 1}
AWQ_SHAPE = SHAPE | {"hidden": 96, "intermediate": 192, "heads": 6, "kv_heads": 2}
CASES: dict[str, tuple[Packer, dict[str, Any], dict[str, Any], str]] = {
    "gptq4 zeros": (
        gptq(4, 64, sym=False, stored_less=1),
        {"quant_method": "gptq", "bits": 4, "group_size": 64, "sym": False, "desc_act": False},
        SHAPE | {"architecture": "qwen2"},
        "uint8",
    ),
    "gptq8 a row": (
        gptq(8, -1, sym=True, stored_less=1),
        {"quant_method": "gptq", "bits": 8, "group_size": -1, "sym": True, "desc_act": False},
        SHAPE,
        "uint8",
    ),
    "awq": (
        awq(32, zeros=True),
        {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True},
        AWQ_SHAPE,
        "uint8",
    ),
    "fp8": (
        fp8((16, 32)),
        {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [16, 32]},
        SHAPE,
        "uint8",
    ),
}


class Dequantized:
    """A quantized checkpoint with the weights that it means."""

    def __init__(self, folder: Path, weights: dict[str, Any]) -> None:
        self._base = open_checkpoint(str(folder), "huggingface")
        self._weights = weights
        self.config = {key: value for key, value in self._base.config.items() if key != "quantization_config"}
        self.tensors = {name for name in self._base.tensors if not name.endswith((".scale", ".zero"))}

    def read(self, name: str) -> Any:
        return self._weights[name] if name in self._weights else self._base.read(name)


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_dequantized_model(tmp_path: Path, case: str) -> None:
    packer, settings, shape, stored = CASES[case]
    folder = tmp_path / "checkpoint"
    written = write_vendor_checkpoint(folder, packer, settings, **shape)
    exact = ["frontend.quantize.lm_head=false", "frontend.quantize.activation=int16"]
    compiled = compile_checkpoint(folder, tmp_path, dtype="int8", overrides=exact)
    assert compiled.notes == ()
    kinds = {one.name.rpartition("proj")[2]: one.dtype for one in read_manifest(compiled.folder).parameters}
    assert kinds[".weight"] == stored  # packed, not a float
    model = reference_model(Dequantized(folder, written.weights))  # type: ignore[arg-type]
    executor = Executor.load(compiled.folder)
    import torch

    for length in (1, 30):
        prompt = np.random.default_rng(length).integers(0, written.config["vocab_size"], length).tolist()
        with torch.no_grad():
            expected = model(input_ids=torch.tensor([prompt])).logits[0, -1].numpy()
        # Keys and values of 16 bits, and activations of 16 bits a row, are all that differs.
        assert relative_error(executor.feed(prompt, slot=0, start=0), expected) < 2e-3


def test_another_dtype_would_dequantize_and_is_refused(tmp_path: Path) -> None:
    packer, settings, shape, _ = CASES["gptq4 zeros"]
    write_vendor_checkpoint(tmp_path / "checkpoint", packer, settings, **shape)
    loaded = configuration(tmp_path / "checkpoint", tmp_path, dtype="fp16")
    with pytest.raises(ConfigError, match=r"backend.dtype: the checkpoint comes quantized \(int4\), .*dtype=int8"):
        compile_config(loaded)
    assert not loaded.config.artifact_dir.exists()
