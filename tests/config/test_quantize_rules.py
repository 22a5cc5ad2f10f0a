"""What frontend.quantize may say beside the other keys, the model's weights and a checkpoint's formats."""

from __future__ import annotations

from pathlib import Path

import pytest

from vamc_py.config import LoadedConfig, check_compilable, check_stored, check_wide, load_text
from vamc_py.errors import ConfigError
from vamc_py.weights.calibration_plan import calibration_method, calibration_plan
from vamc_py.weights.formats import WeightFormat

YAML = """\
name: small
frontend:
  checkpoint: somewhere
  type: huggingface
  shape: {input_ids: [[512], [2048]]}
backend: {type: tvm_llvm, dtype: int8}
"""
NAMES = [
    "model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.down_proj.weight",
    "model.layers.1.mlp.down_proj.weight", "lm_head.weight",
]  # fmt: skip
DATASET = "dataset={name: c4, path: c4.jsonl}"


def load(*overrides: str) -> LoadedConfig:
    return load_text(YAML, Path("c.yaml"), overrides)


def faults(*overrides: str) -> list[str]:
    loaded = load(*overrides)
    try:
        check_compilable(loaded)
        check_wide(loaded, NAMES, tied=False)
    except ConfigError as error:
        return [fault.partition(": frontend.")[2] for fault in error.faults]
    return []


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        (["frontend.quantize.type=w16kv8"], "quantize.type: w16kv8 keeps 16-bit weights, and backend.dtype is int8; "),
        (["frontend.quantize.group=32"], "quantize.group: is for weights of 4 bits, and nothing here asks for those; "),
        (["frontend.quantize.zeros=true"], "quantize.zeros: is for weights of 4 bits"),
        (["frontend.quantize.type=w4a16_awq"], "quantize.type: calibrates, and there is no section dataset; write one"),
        (
            [DATASET, "frontend.quantize={type: w4a16_awq, rules: [{match: '*.q_proj', type: w8a16_gptq}]}"],
            "quantize.rules: mix GPTQ and AWQ",
        ),
        (
            [DATASET, "frontend.quantize.type=w8a16_gptq", "frontend.type=onnx"],
            "quantize.type: an ONNX graph is not calibrated",
        ),
        (
            ["frontend.quantize.rules=[{match: '*.up_proj', type: fp16}]"],
            "quantize.rules[0].match: no int8 weight has a name like '*.up_proj'; there are",
        ),
        (
            ["frontend.quantize.rules=[{match: lm_head, type: w4a16}]"],
            "quantize.rules[0].type: lm_head and the embedding have 8 bits",
        ),
        (
            ["backend.dtype=fp16", "frontend.quantize.rules=[{match: '*', type: fp16}]"],
            "quantize.rules: contradicts backend.dtype fp16",
        ),
        (["backend.dtype=bf16", "frontend.quantize.group=64"], "quantize.group: contradicts backend.dtype bf16"),
    ],
)
def test_what_contradicts(overrides: list[str], fault: str) -> None:
    (found,) = faults(*overrides)
    assert found.startswith(fault)


@pytest.mark.parametrize(
    "overrides",
    [
        ["frontend.quantize.type=w4a16", "frontend.quantize.group=32", "frontend.quantize.zeros=true"],
        ["frontend.quantize.rules=[{match: '*.down_proj', type: w4a16}]", "frontend.quantize.group=64"],
        ["frontend.quantize.type=w16kv8", "backend.dtype=fp16"],
        ["frontend.quantize.kv8=true", "backend.dtype=bf16"],
        ["frontend.quantize={type: w8a16, kv8: true}"],
        ["frontend.quantize.type=w4a16_gptq", DATASET],
    ],
)
def test_what_goes_together(overrides: list[str]) -> None:
    assert faults(*overrides) == []


def test_rules_come_before_the_type() -> None:
    rules = "rules: [{match: '*.0.*', type: w8a16}, {match: '*.q_proj', type: fp16}]"
    config = load(f"frontend.quantize={{type: w4a16, {rules}}}").config
    assert config.weight_rules == ("*.0.*=w8a16", "*.q_proj=fp16", "*=w4a16")
    assert load().config.weight_rules == ()
    assert load("frontend.quantize.type=w8a16").config.weight_rules == ()


def test_the_plan_of_a_calibration_has_the_layers_of_its_types() -> None:
    rules = "rules: [{match: '*.0.mlp.*', type: w8a16}, {match: '*.1.mlp.*', type: w8a16_gptq}]"
    config = load(f"frontend.quantize={{type: w4a16_gptq, group: 32, zeros: true, {rules}}}", DATASET).config
    assert calibration_method(config) == "gptq"
    assert calibration_plan(config, NAMES) == {
        "model.layers.0.self_attn.q_proj.weight": WeightFormat("int4", 32, zeros=True, scale="float16"),
        "model.layers.1.mlp.down_proj.weight": WeightFormat("int8"),
    }
    assert calibration_method(load().config) is None
    assert calibration_plan(load().config, NAMES) == {}


def test_formats_of_the_checkpoint_are_kept_or_refused() -> None:
    stored = {NAMES[1]: WeightFormat("int4", 128)}
    check_stored(load(), stored)
    check_stored(load("backend.dtype=fp16"), {})
    with pytest.raises(ConfigError, match=r"backend\.dtype: the checkpoint comes quantized \(int4\), which fp16 would"):
        check_stored(load("backend.dtype=fp16"), stored)
    with pytest.raises(ConfigError, match=r"quantize\.type: calibrates, and the checkpoint comes quantized"):
        check_stored(load("frontend.quantize.type=w4a16_gptq", DATASET), stored)
