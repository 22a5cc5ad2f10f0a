"""The estimate before a calibration, against what one takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.checkpoints import model_config, write_checkpoint

from vamc_py.checkpoint import open_checkpoint
from vamc_py.frontend.model_config import ModelConfig, expected_tensors
from vamc_py.quant import calibrate
from vamc_py.quant.needs import calibration_needs
from vamc_py.quant.options import Method, Options
from vamc_py.weights.formats import WeightFormat

SHAPE = {"hidden": 4096, "intermediate": 12288, "heads": 32, "kv_heads": 8, "head_dim": 128, "vocab": 151936}
EIGHT_BILLION = ModelConfig.from_hf(model_config(architecture="qwen3", layers=36, **SHAPE))
MB = 1 << 20


def plan_of(model: ModelConfig, form: WeightFormat) -> dict[str, WeightFormat]:
    return {name: form for name in expected_tensors(model) if name.endswith("_proj.weight")}


def test_disk_is_that_of_the_files_and_mapped_states(tmp_path: Path) -> None:
    config = write_checkpoint(tmp_path / "model", architecture="qwen3", layers=2)
    model = ModelConfig.from_hf(config)
    plan = plan_of(model, WeightFormat("int4", 32, zeros=True, scale="float16"))
    checkpoint = open_checkpoint(str(tmp_path / "model"), "huggingface")
    made = calibrate(checkpoint, model, np.zeros((1, 8), np.int64), plan, "gptq", None, tmp_path / "cache")
    found = sum(path.stat().st_size for path in made.folder.glob("*.safetensors"))
    disk = calibration_needs(model, 1, 8, plan, "gptq", Options()).disk
    assert disk <= found <= disk + 2 * 4096  # headers
    large = calibration_needs(EIGHT_BILLION, 256, 512, plan_of(EIGHT_BILLION, WeightFormat("int8")), "gptq", Options())
    assert large.disk > 36 * 190 * 10**6 + 256 * 512 * 4096 * 4


@pytest.mark.parametrize(
    ("method", "options", "measured"),
    [("gptq", Options(), 2384), ("gptq", Options(true_sequential=False), 2499), ("awq", Options(), 2541)],
)
def test_memory_is_near_what_was_measured(method: Method, options: Options, measured: int) -> None:
    """The largest sum of anonymous and shared memory over a layer of this shape, with mapped hidden states, in MB."""
    plan = plan_of(EIGHT_BILLION, WeightFormat("int4", 128))
    found = calibration_needs(EIGHT_BILLION, 128, 512, plan, method, options).memory
    assert measured * MB < found < 4 / 3 * measured * MB


def test_more_takes_more() -> None:
    plan = plan_of(EIGHT_BILLION, WeightFormat("int4", 128))
    least = calibration_needs(EIGHT_BILLION, 8, 512, plan, "gptq", Options())
    states = calibration_needs(EIGHT_BILLION, 16, 512, plan, "gptq", Options())
    assert states.memory - least.memory == 8 * 512 * 4096 * 4
    assert calibration_needs(EIGHT_BILLION, 128, 512, plan, "gptq", Options()).memory < least.memory  # mapped
    assert calibration_needs(EIGHT_BILLION, 8, 512, plan, "gptq", Options(true_sequential=False)).memory > least.memory
    deeper = replace(EIGHT_BILLION, layers=72)
    assert calibration_needs(deeper, 8, 512, plan, "gptq", Options()) == least
