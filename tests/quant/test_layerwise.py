"""The model run layer by layer gives what the whole model gives."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.checkpoints import random_tensor, tensor_shapes, write_checkpoint, write_gguf

from vamc_py.checkpoint import Checkpoint, open_checkpoint
from vamc_py.errors import CheckpointError
from vamc_py.frontend.model_config import ModelConfig, expected_tensors
from vamc_py.frontend.models.qwen2 import Qwen2ForCausalLM
from vamc_py.frontend.models.qwen3 import Qwen3ForCausalLM
from vamc_py.quant import hidden as hidden_module
from vamc_py.quant import layerwise
from vamc_py.quant.layerwise import LayerwiseModel

MODELS: dict[str, dict[str, Any]] = {
    "qwen2": {"architecture": "qwen2"},
    "qwen3": {"architecture": "qwen3", "tied": False, "heads": 6, "kv_heads": 3},
    "llama": {"architecture": "llama", "layers": 3, "hidden": 80},
}
TOKENS = np.random.default_rng(5).integers(0, 288, (5, 21))


def opened(folder: Path, **shape: Any) -> tuple[Checkpoint, ModelConfig]:
    write_checkpoint(folder, scale=0.2, **shape)
    checkpoint = open_checkpoint(str(folder), "huggingface")
    return checkpoint, ModelConfig.from_hf(checkpoint.config)


def whole_model(checkpoint: Checkpoint, model: ModelConfig) -> Qwen2ForCausalLM:
    module = {"qwen2": Qwen2ForCausalLM, "qwen3": Qwen3ForCausalLM}[model.architecture](model)
    weights = {name: torch.from_numpy(np.array(checkpoint.read(name), np.float32)) for name in expected_tensors(model)}
    module.load_state_dict(weights, strict=not model.tied_embedding)
    return module.eval()


@torch.no_grad()
def reference(checkpoint: Checkpoint, model: ModelConfig, tokens: np.ndarray) -> np.ndarray:
    """Final hidden states, each sample for itself."""
    module, length = whole_model(checkpoint, model).model, tokens.shape[1]
    mask = torch.full((length, length), torch.finfo(torch.float32).min).triu(1)[None, None]
    empty = torch.zeros(1, model.kv_heads, 0, model.head_dim)
    past = [(empty, empty)] * model.layers
    rows = [module(torch.from_numpy(row)[None], mask, torch.arange(length)[None], past)[0][0] for row in tokens]
    return torch.stack(rows).numpy()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", MODELS)
def test_final_hidden_states_are_those_of_the_whole_model(tmp_path: Path, name: str, dtype: str) -> None:
    checkpoint, model = opened(tmp_path, dtype=dtype, **MODELS[name])
    found = LayerwiseModel(checkpoint, model).final_hidden(TOKENS)
    wanted = reference(checkpoint, model, TOKENS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())


def test_batches_and_a_mapped_file_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, model = opened(tmp_path, **MODELS["qwen3"])
    engine = LayerwiseModel(checkpoint, model)
    in_memory = engine.final_hidden(TOKENS)
    monkeypatch.setattr(layerwise, "BATCH_BYTES", 2 * 4 * 21 * 6 * 21)  # two samples
    monkeypatch.setattr(hidden_module, "MOST_IN_MEMORY", 1000)
    monkeypatch.setattr(layerwise, "_EMBEDDING_ROWS", 7)
    folder = tmp_path / "cache"
    folder.mkdir()
    mapped = engine.final_hidden(TOKENS, hidden_module.hidden_array((5, 21, model.hidden_size), folder))
    assert isinstance(mapped.base, np.memmap)
    assert list(folder.iterdir()) == []  # the file has no name
    np.testing.assert_allclose(mapped, in_memory, rtol=1e-5, atol=1e-5)


def test_small_states_are_plain_memory() -> None:
    assert hidden_module.hidden_array((3, 4, 5)).base is None


def test_embeddings_are_read_by_the_rows_that_occur(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, model = opened(tmp_path, architecture="qwen2", vocab=400)
    read: list[tuple[int, int]] = []
    inner = checkpoint.read

    def recording(name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        assert stop is not None
        read.append((start, stop))
        return inner(name, start, stop)

    monkeypatch.setattr(checkpoint, "read", recording)
    monkeypatch.setattr(layerwise, "_EMBEDDING_ROWS", 100)
    tokens = np.array([[3, 399, 7], [301, 3, 3]])
    found = LayerwiseModel(checkpoint, model).embed(tokens)
    assert read == [(3, 8), (301, 400)]
    np.testing.assert_array_equal(found, inner("model.embed_tokens.weight")[tokens])


def test_gguf_is_read_too(tmp_path: Path) -> None:
    config = write_gguf(tmp_path / "model.gguf", architecture="llama", scale=0.2)
    checkpoint = open_checkpoint(str(tmp_path / "model.gguf"), "gguf")
    model = ModelConfig.from_hf(checkpoint.config)
    found = LayerwiseModel(checkpoint, model).final_hidden(TOKENS)
    module = Qwen2ForCausalLM(model)
    weights = {name: random_tensor(name, shape, scale=0.2) for name, shape in tensor_shapes(config).items()}
    module.load_state_dict({name: torch.from_numpy(values) for name, values in weights.items()}, strict=False)
    np.testing.assert_allclose(found, reference(checkpoint, model, TOKENS), rtol=1e-4, atol=1e-4)


def test_watching_gives_every_token_s_input_and_changes_nothing(tmp_path: Path) -> None:
    checkpoint, model = opened(tmp_path, **MODELS["qwen2"])
    engine = LayerwiseModel(checkpoint, model)
    hidden = engine.embed(TOKENS)
    before = hidden.copy()
    seen: dict[str, list[torch.Tensor]] = {"self_attn.q_proj": [], "mlp.down_proj": []}
    layer = engine.load(0)
    engine.run(layer, hidden, watch={name: inputs.append for name, inputs in seen.items()}, keep=False)
    np.testing.assert_array_equal(hidden, before)
    q, down = (torch.cat(inputs) for inputs in seen.values())
    assert q.shape == (5 * 21, 64)
    assert down.shape == (5 * 21, 96)
    with torch.no_grad():
        np.testing.assert_allclose(q, layer.input_layernorm(torch.from_numpy(before)).reshape(-1, 64), rtol=1e-6)
    seen["self_attn.q_proj"].clear()
    engine.run(layer, hidden, keep=True)
    assert seen["self_attn.q_proj"] == []  # nobody watches any more
    assert (hidden != before).any()


@pytest.mark.parametrize("name", MODELS)
def test_attention_s_weights_are_those_that_the_layer_uses(tmp_path: Path, name: str) -> None:
    checkpoint, model = opened(tmp_path, **MODELS[name])
    engine = LayerwiseModel(checkpoint, model)
    layer, hidden = engine.load(1), engine.embed(TOKENS)
    attended: list[torch.Tensor] = []

    def give(x: torch.Tensor, weights: torch.Tensor) -> None:
        assert weights.shape == (len(x), model.heads, 21, 21)
        v = layer.self_attn.split(layer.self_attn.v_proj(x)).transpose(1, 2)
        v = v.repeat_interleave(model.heads // model.kv_heads, dim=1)
        attended.append((weights @ v).transpose(1, 2).reshape(len(x) * 21, -1))

    engine.attend(layer, hidden, give)
    used: list[torch.Tensor] = []
    engine.run(layer, hidden, ["attention"], watch={"self_attn.o_proj": used.append}, keep=False)
    np.testing.assert_allclose(torch.cat(attended).numpy(), torch.cat(used).numpy(), rtol=1e-4, atol=1e-5)


def test_one_layer_s_weights_are_in_memory(tmp_path: Path) -> None:
    checkpoint, model = opened(tmp_path, **MODELS["llama"])
    engine = LayerwiseModel(checkpoint, model)
    of_first = [weakref.ref(parameter) for parameter in engine.load(0).parameters()]
    assert all(parameter() is not None for parameter in of_first)
    engine.load(1)
    gc.collect()
    assert all(parameter() is None for parameter in of_first)


def test_a_token_beyond_the_embedding_is_refused(tmp_path: Path) -> None:
    checkpoint, model = opened(tmp_path, architecture="qwen2")
    with pytest.raises(CheckpointError, match=r"the token 288, and the embedding has 288 rows"):
        LayerwiseModel(checkpoint, model).embed(np.array([[1, 288]]))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e25])
def test_inputs_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    checkpoint, model = opened(tmp_path, architecture="qwen2")
    engine = LayerwiseModel(checkpoint, model)
    layer = engine.load(1)
    layer.post_attention_layernorm.weight[3] = value
    watch: dict[str, Any] = {"mlp.gate_proj": lambda x: None}
    with pytest.raises(CheckpointError, match=r"the inputs of model\.layers\.1\.mlp\.gate_proj are too large"):
        engine.run(layer, engine.embed(TOKENS), watch=watch, keep=False)


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, model = opened(tmp_path, architecture="qwen2")
    inner = checkpoint.read

    def damaged(name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        values = np.array(inner(name, start, stop))
        if name == "model.layers.1.mlp.up_proj.weight":
            values[2, 3] = np.inf
        return values

    monkeypatch.setattr(checkpoint, "read", damaged)
    engine = LayerwiseModel(checkpoint, model)
    engine.load(0)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: model\.layers\.1\.mlp\.up_proj\.weight has values"):
        engine.load(1)
