"""AWQ: scales and clipping against plain searches, and that folding scales changes no output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.checkpoints import write_checkpoint

from vamc_py.checkpoint import open_checkpoint
from vamc_py.frontend.model_config import ModelConfig
from vamc_py.frontend.models.qwen2 import DecoderLayer
from vamc_py.quant import awq, awq_layer
from vamc_py.quant.awq_layer import quantize_layer
from vamc_py.quant.layerwise import LayerwiseModel
from vamc_py.quant.options import INPUTS, Options
from vamc_py.quant.statistics import InputStatistics
from vamc_py.weights.formats import WeightFormat
from vamc_py.weights.grid import group_scales, round_to_grid
from vamc_py.weights.rounded import round_to_nearest

FORM = WeightFormat("int4", 32)
FORMATS = [FORM, WeightFormat("int4", 64, zeros=True, scale="float16"), WeightFormat("int4"), WeightFormat("int8", 32)]
LINEARS = [name for names in INPUTS for name in names]
TOKENS = np.random.default_rng(1).integers(0, 288, (6, 30))


def outlier_layer(rows: int = 24, columns: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """A weight f32 [rows, columns], and inputs f32 [300, columns] with a few channels that are large."""
    generator = np.random.default_rng(3)
    inputs = generator.standard_normal((300, columns), np.float32)
    inputs[:, ::17] *= 30
    return generator.standard_normal((rows, columns), np.float32), inputs


def statistics_of(inputs: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    statistics = InputStatistics(inputs.shape[1])
    statistics.add(torch.from_numpy(inputs))
    return statistics.hessian(), statistics.mean_magnitude()


def scales_of(weights: list[torch.Tensor], inputs: np.ndarray, form: WeightFormat = FORM) -> torch.Tensor | None:
    hessian, magnitude = statistics_of(inputs)
    return awq.channel_scales([(weight, form, hessian) for weight in weights], magnitude)


def squares(weight: np.ndarray, inputs: np.ndarray) -> float:
    """Twice the mean over the inputs of the sum of squared outputs."""
    return float(2 * ((inputs.astype(np.float64) @ weight.T) ** 2).sum() / len(inputs))


def scaled_error(weight: np.ndarray, inputs: np.ndarray, form: WeightFormat, scales: np.ndarray) -> float:
    return squares(round_to_nearest(weight * scales, form).floats() / scales - weight, inputs)


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_scales_are_the_best_of_the_search(form: WeightFormat) -> None:
    weight, inputs = outlier_layer()
    magnitude = np.abs(inputs).mean(axis=0)
    tried = []
    for step in range(20):
        scales = magnitude ** np.float32(step / 20)
        tried.append(scales / np.sqrt(scales.max() * scales.min()))
    errors = [scaled_error(weight, inputs, form, scales) for scales in tried]
    found = scales_of([torch.from_numpy(weight)], inputs, form)
    assert found is not None
    np.testing.assert_allclose(found.numpy(), tried[int(np.argmin(errors))], rtol=1e-5)
    assert min(errors) < 0.8 * errors[0]  # rounding to nearest


def test_two_weights_share_the_scales_that_suit_both() -> None:
    weight, inputs = outlier_layer()
    both = scales_of([torch.from_numpy(weight[:4]), torch.from_numpy(weight[4:])], inputs)
    whole = scales_of([torch.from_numpy(weight)], inputs)
    assert both is not None
    np.testing.assert_array_equal(both, whole)


def test_alike_channels_are_left_alone() -> None:
    weight, _ = outlier_layer()
    assert awq.channel_scales([(torch.from_numpy(weight), FORM, torch.eye(80))], torch.ones(80)) is None


def test_a_channel_without_input_gives_finite_scales() -> None:
    weight, inputs = outlier_layer()
    inputs[:, 5] = 0
    found = scales_of([torch.from_numpy(weight)], inputs)
    assert found is not None
    assert torch.isfinite(found).all()
    assert (found > 0).all()


def test_the_error_of_outputs_is_that_of_running_them() -> None:
    weight, inputs = outlier_layer()
    error = awq.output_error(torch.from_numpy(weight), statistics_of(inputs)[0])
    assert error == pytest.approx(squares(weight, inputs), rel=1e-5)


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_each_group_has_the_best_clipped_range(form: WeightFormat) -> None:
    weight, inputs = outlier_layer()
    found = awq.clip(torch.from_numpy(weight), statistics_of(inputs)[0], form)
    size = form.group or weight.shape[1]
    whole = WeightFormat(form.values, zeros=form.zeros)
    for start in range(0, weight.shape[1], size):
        part, x = weight[:, start : start + size], inputs[:, start : start + size].astype(np.float64)
        low, high = part.min(axis=1, keepdims=True), part.max(axis=1, keepdims=True)
        errors = []
        for step in range(10):
            scale, zero = group_scales(np.clip(part, low * (1 - step / 20), high * (1 - step / 20)), form)
            change = whole.dequantize(round_to_grid(part, scale, zero, form), scale, zero) - part
            errors.append(((x @ change.T) ** 2).sum(axis=0))
        change = found.floats()[:, start : start + size] - part
        np.testing.assert_allclose(((x @ change.T) ** 2).sum(axis=0), np.min(errors, axis=0), rtol=1e-3)
    nearest = round_to_nearest(weight, form).floats()
    assert squares(found.floats() - weight, inputs) < squares(nearest - weight, inputs)


def opened(folder: Path, **shape: Any) -> tuple[LayerwiseModel, np.ndarray]:
    """A model and the input of its first layer, a few channels of which are large."""
    write_checkpoint(folder, scale=0.2, **shape)
    checkpoint = open_checkpoint(str(folder), "huggingface")
    model = ModelConfig.from_hf(checkpoint.config)
    engine = LayerwiseModel(checkpoint, model)
    hidden = engine.embed(TOKENS)
    hidden[:, :, ::9] *= 20
    return engine, hidden


MODELS = {
    "heads share keys": {"architecture": "qwen2"},
    "each head has its own": {"architecture": "qwen2", "kv_heads": 4},
    "qwen3": {"architecture": "qwen3"},
}


@pytest.mark.parametrize("name", MODELS)
def test_folded_scales_change_no_output(tmp_path: Path, name: str) -> None:
    engine, hidden = opened(tmp_path, **MODELS[name])
    layer = engine.load(0)
    wanted = hidden.copy()
    engine.run(layer, wanted, keep=True)
    statistics = {names[0]: InputStatistics(layer.get_submodule(names[0]).in_features) for names in INPUTS}
    engine.run(layer, hidden, watch={key: each.add for key, each in statistics.items()}, keep=False)
    changed = set()
    for maker, names in zip(awq_layer._MAKERS, INPUTS, strict=True):
        if maker != "self_attn.v_proj" or name == "each head has its own":
            seen = statistics[names[0]]
            magnitude, hessian = seen.mean_magnitude(), seen.hessian()
            shared = awq_layer._Input(maker, names, dict.fromkeys(names, hessian), magnitude)
            changed |= awq_layer.scale_input(layer, shared, dict.fromkeys(LINEARS, FORM))
    assert {"input_layernorm.weight", "mlp.up_proj.weight", "mlp.down_proj.weight"} <= changed
    assert ("self_attn.v_proj.bias" in changed) == (name == "each head has its own")
    found = hidden.copy()
    engine.run(layer, found, keep=True)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())


def layer_error(engine: LayerwiseModel, layer: DecoderLayer, hidden: np.ndarray, wanted: np.ndarray) -> float:
    found = hidden.copy()
    engine.run(layer, found, keep=True)
    return float(((found - wanted) ** 2).sum() / ((wanted - hidden) ** 2).sum())


@pytest.mark.parametrize("name", MODELS)
def test_beats_rounding_to_nearest_where_channels_are_large(tmp_path: Path, name: str) -> None:
    engine, hidden = opened(tmp_path, **MODELS[name])
    wanted = hidden.copy()
    engine.run(engine.load(0), wanted, keep=True)
    layer = engine.load(0)
    for linear in LINEARS:
        weight = layer.get_submodule(linear).weight
        weight.copy_(torch.from_numpy(round_to_nearest(weight.detach().numpy(), FORM).floats()))
    nearest = layer_error(engine, layer, hidden, wanted)
    layer = engine.load(0)
    made = quantize_layer(engine, layer, hidden.copy(), dict.fromkeys(LINEARS, FORM), Options(), carry=False)
    assert layer_error(engine, layer, hidden, wanted) < 0.8 * nearest
    assert made["input_layernorm.weight"].dtype == np.float32
    assert made["mlp.down_proj.weight"].dtype == np.int8


def test_neighbours_that_stay_float_are_scaled_with_the_rest(tmp_path: Path) -> None:
    engine, hidden = opened(tmp_path, architecture="qwen2")
    layer = engine.load(0)
    made = quantize_layer(engine, layer, hidden.copy(), {"mlp.gate_proj": FORM}, Options(), carry=False)
    assert sorted(made) == [
        "mlp.gate_proj.weight",
        "mlp.gate_proj.weight.scale",
        "mlp.up_proj.weight",
        "post_attention_layernorm.weight",
    ]
    before = engine.checkpoint.read("model.layers.0.mlp.up_proj.weight")
    norm = engine.checkpoint.read("model.layers.0.post_attention_layernorm.weight")
    assert made["mlp.up_proj.weight"].dtype == np.float32
    scales = norm / made["post_attention_layernorm.weight"]
    np.testing.assert_allclose(made["mlp.up_proj.weight"], before * scales, rtol=1e-5)
