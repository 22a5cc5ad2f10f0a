"""Our Qwen2 and Qwen3 compute what transformers' Qwen2, Qwen3 and Llama compute."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.checkpoints import model_config
from support.run_torch import built_in, random_step, random_weights, stock_model

from vamc_py.frontend.model_config import ModelConfig
from vamc_py.frontend.models.quantized import QuantizedLinear
from vamc_py.frontend.models.qwen2 import Qwen2ForCausalLM

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
CONFIGS: dict[str, dict[str, Any]] = {
    "qwen2": model_config(architecture="qwen2"),
    "qwen2 untied": model_config(architecture="qwen2", tied=False, heads=6, kv_heads=3, hidden=96),
    "qwen2 yarn": model_config(architecture="qwen2", rope_scaling=YARN),
    "qwen2 one kv head": model_config(architecture="qwen2", kv_heads=1),
    "qwen3": model_config(architecture="qwen3", rope_theta=1e6),
    "qwen3 multi-head": model_config(architecture="qwen3", kv_heads=4, head_dim=32),
    "qwen3 yarn": model_config(architecture="qwen3", rope_scaling=YARN, tied=False),
    "qwen3 biases": model_config(architecture="qwen3") | {"attention_bias": True},
    "llama": model_config(architecture="llama"),
    "llama biases": model_config(architecture="llama") | {"attention_bias": True},
}


@pytest.fixture
def qwen3() -> tuple[ModelConfig, dict[str, torch.Tensor]]:
    model = ModelConfig.from_hf(CONFIGS["qwen3"])
    return model, random_weights(model)


@torch.no_grad()
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("new", "past"), [(5, 0), (1, 9), (4, 300)])
def test_equals_transformers(name: str, new: int, past: int) -> None:
    model = ModelConfig.from_hf(CONFIGS[name])
    weights = random_weights(model)
    step = random_step(model, new, past)
    logits, present = built_in(model, weights)(**step.arguments("additive"))
    expected, expected_present = stock_model(CONFIGS[name], weights)(**step.arguments("additive"))
    assert logits.shape == (1, new, model.vocab_size)
    assert expected.std() > 1  # the comparison is about something
    # Angles grow with the position and so does what a last-place difference in a frequency makes of them.
    tolerance = 1e-5 * expected.abs().max() * (1 if past < 100 else 10)
    torch.testing.assert_close(logits, expected, rtol=0, atol=float(tolerance))
    for pair, expected_pair in zip(present, expected_present, strict=True):
        for tensor, expected_tensor in zip(pair, expected_pair, strict=True):
            assert tensor.shape == (1, model.kv_heads, past + new, model.head_dim)
            torch.testing.assert_close(tensor, expected_tensor, rtol=1e-5, atol=1e-4)


@torch.no_grad()
def test_pieces_equal_the_whole(qwen3: tuple[ModelConfig, dict[str, torch.Tensor]]) -> None:
    model, weights = qwen3
    module = built_in(model, weights)
    whole = random_step(model, 7, 0)
    expected, _ = module(**whole.arguments("additive"))
    past, pieces = whole.past, []
    for start, end in ((0, 3), (3, 4), (4, 7)):
        step = type(whole)(whole.input_ids[:, start:end], whole.position_ids[:, start:end], past)
        logits, past = module(**step.arguments("additive"))
        pieces.append(logits)
    torch.testing.assert_close(torch.cat(pieces, 1), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("insert_slice", "iter_num", "rows"), [(False, 0, 5), (True, 0, 1), (True, 1, 5)])
def test_insert_slice_keeps_the_last_row_of_a_prefill(
    qwen3: tuple[ModelConfig, dict[str, torch.Tensor]], insert_slice: bool, iter_num: int, rows: int
) -> None:
    model, weights = qwen3
    arguments = random_step(model, 5, 2).arguments("additive")
    logits, _ = built_in(model, weights, insert_slice=insert_slice, iter_num=iter_num)(**arguments)
    assert logits.shape[1] == rows
    expected, _ = built_in(model, weights)(**arguments)
    torch.testing.assert_close(logits, expected[:, -rows:], rtol=1e-6, atol=1e-5)


@torch.no_grad()
def test_quantize_replaces_the_linears_of_the_layers(qwen3: tuple[ModelConfig, dict[str, torch.Tensor]]) -> None:
    model, weights = qwen3
    module = built_in(model, weights)
    arguments = random_step(model, 4, 3).arguments("additive")
    expected, _ = module(**arguments)
    module.quantize(bits=8)
    replaced = [name for name, child in module.named_modules() if isinstance(child, QuantizedLinear)]
    names = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
    names += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    assert replaced == [f"model.layers.{layer}.{name}" for layer in range(model.layers) for name in names]
    assert isinstance(module.lm_head, torch.nn.Linear)
    logits, _ = module(**arguments)
    assert 0 < (logits - expected).abs().max() < 0.1 * expected.abs().max()


@torch.no_grad()
def test_quantized_linear_is_round_to_nearest_per_row() -> None:
    linear = torch.nn.Linear(32, 8)
    linear.weight[3] = 0
    quantized = QuantizedLinear(linear)
    assert quantized.weight.dtype == torch.int8
    error = quantized.weight * quantized.scale[:, None] - linear.weight
    assert (error.abs() <= quantized.scale[:, None] * 0.5001).all()
    largest = quantized.weight.abs().amax(dim=1)
    assert largest.tolist() == [127, 127, 127, 0, 127, 127, 127, 127]
    x = torch.randn(2, 32)
    expected = x @ (quantized.weight * quantized.scale[:, None]).T + linear.bias
    torch.testing.assert_close(quantized(x), expected)


def test_other_widths_are_refused() -> None:
    with pytest.raises(ValueError, match="4 bits"):
        Qwen2ForCausalLM(ModelConfig.from_hf(CONFIGS["qwen2"])).quantize(bits=4)
