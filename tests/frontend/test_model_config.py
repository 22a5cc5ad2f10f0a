"""ModelConfig reads what transformers writes and refuses, by key, what our models do not compute."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.checkpoints import model_config, tensor_shapes
from support.stock_trace import stock_config
from transformers import AutoModelForCausalLM

from vamc_py.errors import CheckpointError
from vamc_py.frontend.model_config import ModelConfig, expected_tensors
from vamc_py.frontend.rope import Rope

QWEN3 = model_config(architecture="qwen3")
QWEN2 = model_config(architecture="qwen2")
LLAMA = model_config(architecture="llama")
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}


def without(config: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in keys}


def test_reads_every_field() -> None:
    assert ModelConfig.from_hf(QWEN3 | {"rope_theta": 1000000}) == ModelConfig(
        architecture="qwen3",
        layers=2,
        hidden_size=64,
        intermediate_size=96,
        heads=4,
        kv_heads=2,
        head_dim=16,
        vocab_size=288,
        rms_norm_eps=1e-6,
        tied_embedding=True,
        max_positions=512,
        qkv_bias=False,
        output_bias=False,
        rope=Rope(theta=1e6),
    )


def test_qwen2_has_biases_and_llama_is_qwen2_without() -> None:
    qwen2, llama = ModelConfig.from_hf(QWEN2), ModelConfig.from_hf(LLAMA)
    assert (qwen2.architecture, qwen2.qkv_bias, qwen2.output_bias) == ("qwen2", True, False)
    assert (llama.architecture, llama.qkv_bias, llama.output_bias) == ("qwen2", False, False)
    biased = ModelConfig.from_hf(LLAMA | {"attention_bias": True})
    assert (biased.qkv_bias, biased.output_bias) == (True, True)


def test_defaults_are_those_of_transformers() -> None:
    bare = without(QWEN2, "head_dim", "num_key_value_heads", "rope_theta", "rms_norm_eps", "tie_word_embeddings")
    model = ModelConfig.from_hf(bare)
    assert (model.head_dim, model.kv_heads, model.rope.theta) == (16, 4, 10000.0)
    assert (model.rms_norm_eps, model.tied_embedding) == (1e-6, False)
    assert ModelConfig.from_hf(without(QWEN3, "head_dim")).head_dim == 128


@pytest.mark.parametrize(
    "keys",
    [
        {"rope_theta": 1e6, "rope_scaling": YARN},
        {"rope_theta": 1e6, "rope_scaling": {**without(YARN, "rope_type"), "type": "yarn"}},
        {"rope_theta": None, "rope_parameters": YARN | {"rope_theta": 1e6}},
        # What Qwen's instructions make of a file that transformers 5 wrote.
        {
            "rope_theta": None,
            "rope_scaling": YARN,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        },
    ],
)
def test_reads_yarn_in_every_form(keys: dict[str, Any]) -> None:
    model = ModelConfig.from_hf(QWEN3 | {"max_position_embeddings": 40960} | keys)
    assert model.rope == Rope(theta=1e6, kind="yarn", factor=4.0, original_max_positions=32768)
    assert model.max_positions == 131072


def test_yarn_takes_the_config_s_positions_as_the_original_ones() -> None:
    model = ModelConfig.from_hf(QWEN3 | {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}})
    assert (model.rope.original_max_positions, model.max_positions) == (512, 1024)


@pytest.mark.parametrize(
    ("base", "changes", "named"),
    [
        (QWEN3, {"model_type": "qwen3_moe"}, "model_type"),
        (QWEN3, {"model_type": None}, "model_type"),
        (QWEN3, {"hidden_act": "gelu"}, "hidden_act"),
        (LLAMA, {"mlp_bias": True}, "mlp_bias"),
        (LLAMA, {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        (QWEN3, {"architectures": ["Qwen3ForSequenceClassification"]}, "architectures"),
        (QWEN3, {"num_hidden_layers": 0}, "num_hidden_layers"),
        (QWEN3, {"hidden_size": -64}, "hidden_size"),
        (QWEN3, {"hidden_size": "64"}, "hidden_size"),
        (QWEN3, {"vocab_size": True}, "vocab_size"),
        (QWEN3, {"vocab_size": 1 << 30}, "vocab_size"),
        (QWEN3, {"intermediate_size": 96.0}, "intermediate_size"),
        (QWEN3, {"num_key_value_heads": 3}, "num_key_value_heads"),
        (QWEN3, {"head_dim": 15}, "head_dim"),
        (QWEN2, {"head_dim": None, "num_attention_heads": 6}, "hidden_size"),
        (QWEN3, {"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        (QWEN3, {"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        (QWEN3, {"rope_theta": 0}, "rope_theta"),
        (QWEN3, {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope_scaling.rope_type"),
        (QWEN3, {"rope_scaling": {"type": "linear", "factor": 8.0}}, "rope_scaling.type"),
        (QWEN3, {"rope_scaling": {"rope_type": "yarn"}}, "rope_scaling.factor"),
        (QWEN3, {"rope_scaling": YARN | {"beta_fats": 32}}, "rope_scaling.beta_fats"),
        (QWEN3, {"rope_scaling": YARN | {"factor": 0.5}}, "rope_scaling.factor"),
        (QWEN3, {"rope_scaling": {"mrope_section": [16, 24, 24]}}, "rope_scaling.mrope_section"),
        (QWEN3, {"rope_scaling": 4.0}, "rope_scaling"),
        (QWEN3, {"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "rope_parameters.full_attention"),
        (QWEN2, {"use_sliding_window": True, "sliding_window": 128}, "sliding_window"),
        (QWEN2, {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 128}, "sliding_window"),
        (QWEN2, {"layer_types": ["full_attention", "linear_attention"]}, "layer_types"),
        (QWEN2, {"layer_types": ["full_attention"]}, "layer_types"),
    ],
)
def test_refuses_by_key(base: dict[str, Any], changes: dict[str, Any], named: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        ModelConfig.from_hf({**base, **changes}, "config_vacc.json")
    assert str(caught.value).startswith(f"config_vacc.json: {named}: ")


@pytest.mark.parametrize(
    "changes",
    [
        {"use_sliding_window": False, "sliding_window": 128, "max_window_layers": 0},
        {"use_sliding_window": True, "sliding_window": 128, "max_window_layers": 2},
        {"use_sliding_window": True, "sliding_window": 512, "max_window_layers": 0},
        {"use_sliding_window": True, "sliding_window": None},
        {"layer_types": ["full_attention"] * 2},
    ],
)
def test_an_idle_sliding_window_is_accepted(changes: dict[str, Any]) -> None:
    assert ModelConfig.from_hf(QWEN2 | changes) == ModelConfig.from_hf(QWEN2)


junk = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.integers()))


@given(base=st.sampled_from([QWEN2, QWEN3, LLAMA]), key=st.sampled_from(sorted(QWEN2 | LLAMA)), value=junk)
def test_any_damage_is_read_or_refused_by_key(base: dict[str, Any], key: str, value: Any) -> None:
    try:
        model = ModelConfig.from_hf(base | {key: value})
    except CheckpointError as error:
        path = str(error).split(": ")[1]
        # A count that no longer fits another one is reported under either.
        assert path == key or {path, key} <= {"num_attention_heads", "num_key_value_heads", "hidden_size", "head_dim"}
    else:
        assert model.heads % model.kv_heads == 0
        assert all(size > 0 for shape in expected_tensors(model).values() for size in shape) or model.layers > 4


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "llama"])
@pytest.mark.parametrize("tied", [True, False])
def test_expected_tensors_are_the_checkpoint_s(architecture: str, tied: bool) -> None:
    config = model_config(architecture=architecture, tied=tied)
    expected = expected_tensors(ModelConfig.from_hf(config))
    assert expected == tensor_shapes(config)
    with torch.device("meta"):
        stock = AutoModelForCausalLM.from_config(stock_config(config))
    parameters = {name: tuple(value.shape) for name, value in stock.named_parameters()}
    assert expected == parameters
