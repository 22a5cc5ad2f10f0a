"""The passes as they are pass the check for every weight type, with room to the tolerances."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.checkpoints import write_checkpoint
from support.checks import checked, interpreter, tiny_checker
from support.cpu_features import needs_bf16
from support.end_to_end import configuration
from support.patched_checkpoint import add_patched_files, patched_config

from vamc_py.check.check import Checker
from vamc_py.check.results import table
from vamc_py.dialect.attention import BFLOAT16_LEEWAY
from vamc_py.errors import UserError
from vamc_py.passes.select_kernels import SelectKernels

MODELS: dict[str, dict[str, Any]] = {
    "int8": {"architecture": "qwen3", "scale": 0.2, "layers": 2},
    "fp16": {"architecture": "qwen2", "tied": False, "kv_heads": 4, "layers": 1},
    "bf16": {"architecture": "qwen3", "dtype_of_weights": "bfloat16", "layers": 1},
    "fp32": {"architecture": "qwen2", "scale": 0.2, "layers": 1},
}


@pytest.mark.parametrize("dtype", MODELS)
def test_the_pipeline_is_right(dtype: str, tmp_path: Path) -> None:
    model = dict(MODELS[dtype])
    weights = model.pop("dtype_of_weights", "float32")
    write_checkpoint(tmp_path / "model", dtype=weights, **model)
    exact = ["frontend.quantize.activation=int16"] if dtype == "int8" else []
    checker = tiny_checker(tmp_path / "model", dtype=dtype, overrides=exact)
    result, faulty = checked(checker, build=dtype == "int8")
    assert faulty is None
    assert result.finding is None
    labels = [step.label for step in checker.pipeline]
    assert [one.label for one in result.stages] == ["import", *labels, *(["build"] if dtype == "int8" else [])]
    assert all(one.added <= one.allowed / 2 for one in result.stages)
    assert all(one.operator <= one.tolerance / 4 for one in result.stages if one.operator is not None)
    assert sum(one.operator is not None for one in result.stages) == (2 if dtype == "fp32" else 3)
    assert result.stages[-1].torch.tokens == 27
    lines = list(table(result))
    assert len(lines) == len(result.stages) + 2
    assert lines[2].split()[0] == "import"
    assert any(line.endswith("changed nothing") for line in lines)


@pytest.mark.parametrize(
    ("activation", "layers", "wide"),
    [pytest.param("bf16", 2, "*.layers.0.mlp.down_proj", marks=needs_bf16), ("int8_g32", 1, "*.o_proj")],
)
def test_activations_of_fewer_bits(activation: str, layers: int, wide: str, tmp_path: Path) -> None:
    """The pass that rounds them is lossy; kernels give what the rounding says, as exactly as without it."""
    overrides = [f"frontend.quantize.activation={activation}", f"frontend.quantize.wide=['{wide}']"]
    model = tmp_path / "model"
    checker = tiny_checker(model, dtype="int8", tokens=40, overrides=overrides, architecture="qwen3", scale=0.2)
    result, faulty = checked(checker, layers, build=True)
    assert faulty is None
    stages = {one.label: one for one in result.stages}
    rounding, kernels = stages["quantize-activations"], stages["select-kernels"]
    assert rounding.changed
    assert rounding.operator is not None
    assert 1e-3 < rounding.operator < rounding.tolerance / 2
    [one] = [step.one for step in checker.pipeline if step.one.name == "quantize-activations"]
    assert rounding.tolerance == one.tolerance_for(checker.context)
    assert kernels.operator is not None
    assert kernels.operator < kernels.tolerance
    assert kernels.tolerance in (SelectKernels.tolerance, BFLOAT16_LEEWAY)


def test_layers_that_were_cut_away_may_be_wide(tmp_path: Path) -> None:
    overrides = ["frontend.quantize.activation=int8_g32", "frontend.quantize.wide=['model.layers.1.*']"]
    checker = tiny_checker(tmp_path / "model", dtype="int8", overrides=overrides, architecture="qwen3")
    assert checked(checker, 1)[0].finding is None


def test_a_checkpoint_s_own_code_with_one_row_of_logits(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    config = patched_config(write_checkpoint(folder, architecture="qwen2", layers=1), insert_slice=True)
    add_patched_files(folder, config)
    loaded = configuration(folder, tmp_path, dtype="fp32", trust=True)
    result, _ = checked(Checker(loaded, tokens=16, interpreter=interpreter()), 1)
    assert result.finding is None
    assert (result.stages[0].torch.tokens, result.stages[-1].torch.tokens) == (5, 27)


def test_attention_that_no_pass_knows(tmp_path: Path) -> None:
    """The dense cache takes one sequence a step."""
    checker = tiny_checker(tmp_path / "model", dtype="fp16", architecture="qwen3", layers=1)
    checker.pipeline = tuple(step for step in checker.pipeline if step.one.name != "raise-attention")
    result, _ = checked(checker, 1)
    assert result.finding is None
    changed = {one.label for one in result.stages if one.changed}
    assert "dense-kv-cache" in changed
    assert "kv-cache-layout" not in changed


def test_more_tokens_than_the_configuration_has_room_for(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"--tokens: sequences of 129 tokens, .* context of 128 and prefill length of 64"
    ):
        tiny_checker(tmp_path / "model", dtype="fp32", tokens=127, architecture="qwen2")


def test_four_bits_and_an_int8_cache(tmp_path: Path) -> None:
    """Both round; kernels give what the rounding says. The bias of k is taken out of the keys on the way."""
    said = "{type: w4a16, group: 32, zeros: true, kv8: true, activation: int16}"
    overrides = [f"frontend.quantize={said}"]
    checker = tiny_checker(tmp_path / "model", dtype="int8", overrides=overrides, architecture="qwen2", scale=0.2)
    result, faulty = checked(checker, 1, build=True)
    assert faulty is None
    stages = {one.label: one for one in result.stages}
    for label in ("quantize-kv-cache", "quantize-int4"):
        assert stages[label].changed
        operator = stages[label].operator
        assert operator is not None
        assert 1e-3 < operator < stages[label].tolerance / 2
    kernels = stages["select-kernels"].operator
    assert kernels is not None
    assert kernels < SelectKernels.tolerance
