"""A checkpoint's own model file traces to what our model computes; what cannot be taken is refused in a sentence."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support.checkpoints import model_config
from support.patched_checkpoint import add_patched_files, patched_config, write_patched_checkpoint
from support.run_torch import built_in, random_step, random_weights, run_traced
from tvm.relax.frontend.torch import from_exported_program

from vamc_py.errors import CheckpointError, UserError
from vamc_py.frontend.model_config import ModelConfig, expected_tensors
from vamc_py.frontend.remote_code import trace_checkpoint_code
from vamc_py.frontend.trace import Traced, importable

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}


def write_code(folder: Path, config: dict[str, Any] | None = None, **keys: Any) -> dict[str, Any]:
    config = patched_config(config or model_config(architecture="qwen3", layers=1), **keys)
    add_patched_files(folder, config)
    return config


@torch.no_grad()
def assert_equal_to_ours(traced: Traced, rows: int | None) -> None:
    weights = random_weights(traced.model)
    ours = built_in(traced.model, weights)
    for new, past in ((3, 4), (1, 9), (5, 0)):
        step = random_step(traced.model, new, past)
        logits, present = run_traced(traced, weights, step)
        expected, expected_present = ours(**step.arguments("additive"))
        torch.testing.assert_close(logits, expected[:, -(rows or new) :], rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(present, expected_present, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_equals_the_built_in_model(tmp_path: Path, architecture: str, tied: bool) -> None:
    config = write_code(tmp_path, model_config(architecture=architecture, tied=tied, rope_theta=1e6))
    traced = trace_checkpoint_code(tmp_path, config, context=64)
    assert (traced.mask, traced.model) == ("ones", ModelConfig.from_hf(config))
    assert set(traced.parameters.values()) == set(expected_tensors(traced.model))
    assert_equal_to_ours(traced, rows=1)


def test_a_whole_checkpoint_has_code_and_weights(tmp_path: Path) -> None:
    config = write_patched_checkpoint(tmp_path, architecture="qwen3", insert_slice=False)
    assert {"config.json", "config_vacc.json", "model.safetensors"} <= {file.name for file in tmp_path.iterdir()}
    traced = trace_checkpoint_code(tmp_path, config, context=32)
    assert_equal_to_ours(traced, rows=None)


def test_a_decode_iteration_keeps_every_row(tmp_path: Path) -> None:
    config = write_code(tmp_path, iter_num=1)
    assert_equal_to_ours(trace_checkpoint_code(tmp_path, config, context=64), rows=None)


def test_reads_the_rope_theta_of_transformers_5(tmp_path: Path) -> None:
    base = model_config(architecture="qwen3")
    del base["rope_theta"], base["rope_scaling"]
    config = write_code(tmp_path, base | {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}})
    assert_equal_to_ours(trace_checkpoint_code(tmp_path, config, context=64), rows=1)


def test_tables_are_as_long_as_the_context_and_there_once(tmp_path: Path) -> None:
    config = write_code(tmp_path, model_config(architecture="qwen3", layers=3, max_positions=40960))
    tables = list(trace_checkpoint_code(tmp_path, config, context=96).buffer_values().values())
    assert [tuple(table.shape) for table in tables] == [(96, 16)] * 2
    assert not any(table.is_meta for table in tables)


def test_parameters_hold_nothing_and_tvm_imports_it(tmp_path: Path) -> None:
    traced = trace_checkpoint_code(tmp_path, write_code(tmp_path), context=64)
    assert all(value.untyped_storage().nbytes() == 4 for value in traced.program.state_dict.values())
    module = from_exported_program(importable(traced.program), run_ep_decomposition=False)
    assert len(module["main"].params) == len(traced.parameters) + 3 + 2 * traced.model.layers


def test_leaves_nothing_behind(tmp_path: Path) -> None:
    config = write_code(tmp_path)
    files, modules, bytecode = set(tmp_path.rglob("*")), set(sys.modules), sys.dont_write_bytecode
    trace_checkpoint_code(tmp_path, config, context=64)
    assert set(tmp_path.rglob("*")) == files
    assert not any("vacc" in name for name in set(sys.modules) - modules)
    assert sys.dont_write_bytecode == bytecode


def test_two_checkpoints_do_not_mix(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    configs = []
    for folder in (first, second):
        folder.mkdir()
        configs.append(write_code(folder))
    code = second / "modeling_qwen2_vacc.py"
    code.write_text(code.read_text().replace("return self.lm_head(states).float()", "return -self.lm_head(states)"))
    traces = [
        trace_checkpoint_code(folder, config, context=64)
        for folder, config in zip((first, second), configs, strict=True)
    ]
    weights, step = random_weights(traces[0].model), random_step(traces[0].model, 3, 4)
    (plain, _), (negated, _) = (run_traced(traced, weights, step) for traced in traces)
    torch.testing.assert_close(plain, -negated)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"auto_map": None}, ["auto_map.AutoConfig", "names no class"]),
        ({"auto_map": {"AutoConfig": "configuration_qwen2_vacc.Qwen2Config"}}, ["auto_map.AutoModelForCausalLM"]),
        ({"auto_map": {"AutoConfig": "someone/repo--configuration.Config"}}, ["not of the form file.Class"]),
        ({"auto_map": {"AutoConfig": "../configuration.Config"}}, ["not of the form file.Class"]),
        ({"auto_map": {"AutoConfig": "os.path"}}, ["os.py is not in"]),
        ({"auto_map": {"AutoConfig": "configuration_qwen2_vacc.Other"}}, ["has no class Other"]),
        ({"rope_scaling": YARN}, ["rope_scaling", "yarn"]),
        ({"max_position_embeddings": 32}, ["max_position_embeddings", "a context of 64"]),
        ({"hidden_act": "gelu"}, ["hidden_act"]),
        ({"attention_bias": True}, ["self_attn.k_proj.bias", "no parameter"]),
    ],
)
def test_refuses_configs(tmp_path: Path, changes: dict[str, Any], words: list[str]) -> None:
    config = write_code(tmp_path) | changes
    with pytest.raises(CheckpointError) as caught:
        trace_checkpoint_code(tmp_path, config, context=64)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("import torch\n", "import a_package_nobody_has\n", ["ModuleNotFoundError", "a_package_nobody_has"]),
        ("class Tables", "class Tables:::", ["SyntaxError"]),
        ("return self.lm_head", "raise RuntimeError('on purpose')\n        return self.lm_head", ["on purpose"]),
        ("config.num_attention_heads\n", "config.num_heads\n", ["AttributeError", "num_heads"]),
        ("if times == 1:", "if states.sum() > 0:", ["failed with"]),
        ("torch.cos(angles)", "torch.empty(4, 4)", ["ValueError", "cos_cached"]),
    ],
)
def test_blames_the_checkpoint_for_its_code(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    config = write_code(tmp_path)
    code = tmp_path / "modeling_qwen2_vacc.py"
    assert old in code.read_text()
    code.write_text(code.read_text().replace(old, new))
    with pytest.raises(CheckpointError) as caught:
        trace_checkpoint_code(tmp_path, config, context=64)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}: the checkpoint's own code failed")
    assert all(word in message for word in words)
    assert "\n" not in message


def test_names_the_extra_where_transformers_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write_code(tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"vamc-py\[checkpoint-code\]"):
        trace_checkpoint_code(tmp_path, config, context=64)
