"""``--set``: what it changes, what it makes, and its faults."""

from __future__ import annotations

from pathlib import Path

import pytest

from vamc_py.config import LoadedConfig, load_text
from vamc_py.errors import ConfigError

GOOD = """\
name: small
frontend:
  checkpoint: models/small
  shape: {input_ids: [[512], [2048]]}
  quantize:
    type: w8a16_gptq
    device: cpu
backend: {type: tvm_llvm, dtype: int8}
"""


def load(*overrides: str, text: str = GOOD) -> LoadedConfig:
    return load_text(text, Path("c.yaml"), overrides)


def faults(*overrides: str, text: str = GOOD) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(*overrides, text=text)
    return caught.value.faults


def test_one_value() -> None:
    quantize = load("frontend.quantize.type=w8a16").config.frontend.quantize
    assert quantize is not None
    assert (quantize.type, quantize.device) == ("w8a16", "cpu")


def test_missing_section_is_made() -> None:
    loaded = load("workspace.path=out", "dataset.name=c4")
    assert loaded.config.workspace.path == "out"
    assert loaded.config.dataset is not None
    assert loaded.origins["dataset"] == "--set dataset.name=c4"


def test_empty_section_is_filled() -> None:
    text = GOOD.replace("    type: w8a16_gptq\n    device: cpu\n", "")
    quantize = load("frontend.quantize.lm_head=false", text=text).config.frontend.quantize
    assert quantize is not None
    assert quantize.lm_head is False


def test_mapping_and_null_replace_the_whole() -> None:
    quantize = load("frontend.quantize={type: w8a16}").config.frontend.quantize
    assert quantize is not None
    assert quantize.device is None
    assert load("frontend.quantize=null").config.frontend.quantize is None
    assert load("frontend.quantize=").config.frontend.quantize is None


def test_later_one_wins() -> None:
    assert load("backend.dtype=fp16", "backend.dtype=fp32").config.backend.dtype == "fp32"
    assert faults("backend.dtype=fp15", "backend.dtype=fp61")[0].startswith("--set backend.dtype=fp61: backend.dtype: ")


def test_value_may_hold_equal_signs_and_lists() -> None:
    assert load("frontend.checkpoint=a=b").config.frontend.checkpoint == "a=b"
    assert load("frontend.shape.input_ids=[[16], [32]]").config.context_length == 32


def test_version_keeps_its_zero() -> None:
    assert load("workspace.pyenv.transformers=4.50").config.workspace.pyenv == {"transformers": "4.50"}


def test_override_mends_a_fault_of_the_file() -> None:
    assert load("frontend.quantize.type=w8a16", text=GOOD.replace("w8a16_gptq", "0x10")).config.name == "small"
    assert load("backend.dtype=int8", text=GOOD.replace("int8", "int9")).config.backend.dtype == "int8"


def test_old_name_sets_the_new_key() -> None:
    assert load("model=other").config.name == "other"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "frontend.quantize.type=w8a61",
            "--set frontend.quantize.type=w8a61: frontend.quantize.type: 'w8a61' is not one of w8a16, w4a16, "
            "w8a16_gptq, w4a16_gptq, w4a16_awq, w16kv8; did you mean w8a16?",
        ),
        (
            "frontend.quantise.type=w8a16",
            "--set frontend.quantise.type=w8a16: frontend.quantise: unknown key; did you mean quantize?",
        ),
        (
            "backend.dtype",
            "--set backend.dtype: not of the form key=value, such as --set frontend.quantize.type=w8a16",
        ),
        ("=x", "--set =x: not of the form key=value, such as --set frontend.quantize.type=w8a16"),
        ("a..b=x", "--set a..b=x: not of the form key=value, such as --set frontend.quantize.type=w8a16"),
        (
            "backend.dtype.bits=8",
            "--set backend.dtype.bits=8: backend.dtype.bits: cannot be set: backend.dtype is no mapping",
        ),
        (
            "frontend.shape.input_ids=[[512], [100]]",
            "--set frontend.shape.input_ids=[[512], [100]]: frontend.shape.input_ids[1][0]: 100 is not a multiple of "
            "16; 96 and 112 are",
        ),
        (
            "frontend.quantize={type: w8a16, type: w8a16}",
            "--set frontend.quantize={type: w8a16, type: w8a16}: frontend.quantize.type: written twice; keep one",
        ),
        (
            "backend.dtype={",
            "--set backend.dtype={: backend.dtype: not YAML: expected the node content, but found '<stream end>', "
            "while parsing a flow node; check the indentation, quotes and colons near here",
        ),
        (
            "backend.dtype=010",
            "--set backend.dtype=010: backend.dtype: '010' is a number to some readers of YAML only; write it in "
            "decimal digits, or in quotes if it is text",
        ),
    ],
)
def test_fault_names_the_override(override: str, expected: str) -> None:
    assert expected in faults(override)
