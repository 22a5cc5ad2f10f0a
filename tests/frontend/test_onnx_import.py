"""ONNX graphs of decoders, whoever wrote them, become the same few operators and compute what torch computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from support.checkpoints import model_config
from support.patched_checkpoint import patched_config
from support.relax_modules import StepModel, apply_passes, context_for, operators_in
from support.run_torch import built_in, random_step, random_weights, stock_model
from support.torch_onnx import export_with_torch, quantized_nodes
from torch import nn

from vamc_py.checkpoint import open_checkpoint
from vamc_py.checkpoint.onnx_checkpoint import OnnxCheckpoint
from vamc_py.errors import CheckpointError
from vamc_py.frontend.model_config import ModelConfig
from vamc_py.frontend.onnx_import.importer import import_onnx
from vamc_py.passes.keep_quantized import KeepQuantized
from vamc_py.pipeline.default import Numbers, default_pipeline
from vamc_py.pipeline.program import Program
from vamc_py.weights.source import PlanSource

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
FUSED = tuple(one for one in default_pipeline(Numbers("fp32")) if one.stage != "lower")
RAISED = tuple(one for one in FUSED if one.stage == "raise" or one.name in ("strided-slice", "kv-cache-layout"))
TOKENS = 12
Weights = dict[str, torch.Tensor]
Lengths = tuple[int, int | None, bool]
PREFILL, DECODE, ANY_PREFILL, ANY_STEP = (16, None, False), (1, 31, False), (5, None, True), (3, 5, True)


def ours(config: dict[str, Any], weights: Weights, *, insert_slice: bool) -> nn.Module:
    return built_in(ModelConfig.from_hf(config), weights, insert_slice=insert_slice)


def stock(config: dict[str, Any], weights: Weights, *, insert_slice: bool) -> nn.Module:
    return stock_model(config, weights)


def patched(config: dict[str, Any], weights: Weights, *, insert_slice: bool) -> nn.Module:
    """Called as our models are; its mask is 1 where a token attends."""
    from support.patched_files.configuration_qwen2_vacc import Qwen2Config
    from support.patched_files.modeling_qwen2_vacc import Qwen2ForCausalLM

    said = patched_config(config, insert_slice=insert_slice) | {"pad_token_id": None, "tie_word_embeddings": False}
    model = Qwen2ForCausalLM(Qwen2Config(**said))
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not missing
    assert not unexpected
    return _WithMaskOfOnes(model)


class _WithMaskOfOnes(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, ids: Any, mask: Any, positions: Any, past: Any) -> Any:
        return self.module(ids, mask, positions, tuple(past))[:2]


CASES: dict[str, tuple[Callable[..., nn.Module], dict[str, Any], Lengths, bool]] = {
    "ours, prefill": (ours, {"architecture": "qwen2", "tied": False}, PREFILL, True),
    "ours, decode, yarn": (
        ours,
        {"architecture": "qwen3", "rope_scaling": YARN, "max_positions": 256, "layers": 2},
        DECODE,
        False,
    ),
    "ours, any step": (ours, {"architecture": "qwen2", "heads": 6, "kv_heads": 3, "hidden": 96}, ANY_STEP, False),
    # Numbers that are lengths and sizes at once: 16 is the head size, 4 the heads, 2 the KV heads, 64 the width.
    "ours, sixteen everywhere": (ours, {"architecture": "qwen3"}, (16, 16, False), False),
    "ours, four tokens": (ours, {"architecture": "qwen2"}, (4, 60, False), False),
    "transformers, prefill": (stock, {"architecture": "qwen3"}, PREFILL, False),
    "transformers, decode": (stock, {"architecture": "qwen2", "kv_heads": 4}, DECODE, False),
    "transformers, any prefill": (stock, {"architecture": "qwen2"}, ANY_PREFILL, False),
    "transformers, any step": (stock, {"architecture": "qwen3"}, ANY_STEP, False),
    # Fixed lengths cut their tables of rotations: these graphs serve a context of 64.
    "patched, prefill": (patched, {"architecture": "qwen2", "tied": False}, (64, None, False), True),
    "patched, decode": (patched, {"architecture": "qwen3", "tied": False}, (1, 63, False), False),
    "patched, any step": (patched, {"architecture": "qwen2", "tied": False}, ANY_STEP, False),
}
COMPUTED = ("ours, sixteen everywhere", "transformers, prefill", "transformers, any step", "patched, any step")


@pytest.fixture
def imported(tmp_path: Path) -> Callable[..., tuple[OnnxCheckpoint, Program, ModelConfig, Weights]]:
    """Exports a case with torch.onnx and imports it."""

    def make(name: str) -> tuple[OnnxCheckpoint, Program, ModelConfig, Weights]:
        kind, keys, (new, past, dynamic), insert_slice = CASES[name]
        config = model_config(**{"layers": 1, "max_positions": 256, **keys})
        model = ModelConfig.from_hf(config)
        weights = random_weights(model)
        module = kind(config, weights, insert_slice=insert_slice)
        path = tmp_path / "model.onnx"
        export_with_torch(module, model, path, new=new, past=past, dynamic=dynamic)
        checkpoint = open_checkpoint(str(path), "onnx")
        assert isinstance(checkpoint, OnnxCheckpoint)
        return checkpoint, import_onnx(checkpoint, context=64), model, weights

    return make


def stored(checkpoint: OnnxCheckpoint) -> Weights:
    source = PlanSource(checkpoint)
    return {name: torch.from_numpy(np.array(source.read(name))) for name in checkpoint.tensors}


@pytest.mark.parametrize("name", CASES)
def test_only_the_dialect_is_left(imported: Any, name: str) -> None:
    _, program, model, _ = imported(name)
    tables = name.startswith("patched")  # they look rotations up
    counts = operators_in(apply_passes(program, *RAISED))
    for shaping in ("reshape", "permute_dims"):
        counts.pop(shaping, 0)
    assert counts.pop("vamc.rotary_angles", 0) == (0 if tables else 1)
    assert counts == {
        "vamc.embedding": 1 + (2 * model.layers if tables else 0),
        "vamc.linear": 7 * model.layers + 1,
        "vamc.rms_norm": (4 if model.architecture == "qwen3" else 2) * model.layers + 1,
        "vamc.rotary": 2 * model.layers,
        "vamc.cached_attention": model.layers,
        "vamc.swiglu": model.layers,
        "vamc.select_rows": 1,
        "add": 2 * model.layers,
    }


@pytest.mark.parametrize("name", COMPUTED)
def test_step_computes_what_torch_computes(imported: Any, name: str) -> None:
    """In other lengths than those of the graph, and in pieces."""
    checkpoint, program, model, weights = imported(name)
    whole = random_step(model, TOKENS, 0)
    with torch.no_grad():
        expected = built_in(model, weights)(**whole.arguments("additive"))[0][0].numpy()
    step = StepModel(apply_passes(program, *FUSED), stored(checkpoint), pages=[[1, 0]], blocks=1)
    tokens = whole.input_ids[0].tolist()
    for first, last in ((0, 7), (7, 8), (8, TOKENS)):
        logits = step(tokens[first:last], range(first, last))
        np.testing.assert_allclose(logits, expected[first:last], rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_weights_have_the_names_of_the_checkpoint(imported: Any) -> None:
    """Also those that torch.onnx stores transposed and renames; read by rows, they are the checkpoint's."""
    checkpoint, program, _, weights = imported("ours, prefill")
    assert any(name.startswith("onnx::MatMul") for name in checkpoint.transposed)
    assert set(program.plan) == set(weights)
    for name, values in weights.items():
        np.testing.assert_array_equal(checkpoint.read(name), values.numpy())
        np.testing.assert_array_equal(checkpoint.read(name, 1, 3), values.numpy()[1:3])


def test_a_mask_of_ones_is_told_from_an_additive_one(imported: Any) -> None:
    assert imported("patched, decode")[1].function.attrs["vamc.mask"] == "ones"
    assert imported("ours, prefill")[1].function.attrs["vamc.mask"] == "additive"


@torch.no_grad()
def test_nodes_of_a_quantized_model_become_int8_layers(tmp_path: Path) -> None:
    """As the patched files export QuantizedLinear; torch computes the same."""
    model = ModelConfig.from_hf(model_config(architecture="qwen2", layers=1))
    weights = random_weights(model)
    module = built_in(model, weights)
    module.quantize(8)
    path = tmp_path / "model.onnx"
    with quantized_nodes():
        export_with_torch(module, model, path, new=3, past=5, dynamic=True)
    checkpoint = open_checkpoint(str(path), "onnx")
    assert len(checkpoint.quantized) == 7
    name = "model.layers.0.mlp.up_proj.weight"
    assert checkpoint.tensors[name].dtype == "int8"
    assert checkpoint.tensors[name + ".scale"].shape == (96,)
    assert checkpoint.quantized[name].values == "int8"
    program = apply_passes(import_onnx(checkpoint, context=64), *RAISED)
    counts = operators_in(program)
    assert counts["vamc.linear"] == 8
    assert counts["matmul"] == 0
    kept = KeepQuantized().apply(program, replace(context_for("int8"), formats=checkpoint.quantized))
    int8 = [weight.name for weight in kept.function.params if str(weight.ty.dtype) == "int8"]
    assert sorted(int8) == sorted(checkpoint.quantized)
    assert isinstance(checkpoint, OnnxCheckpoint)
    whole = random_step(model, TOKENS, 0)
    expected = module(**whole.arguments("additive"))[0][0].numpy()
    step = StepModel(program, stored(checkpoint))
    logits = step(whole.input_ids[0].tolist(), range(TOKENS))[0]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(("name", "rows"), [("patched, decode", 64), ("patched, any step", 256)])
def test_a_table_of_fewer_positions_than_the_context_is_refused(imported: Any, name: str, rows: int) -> None:
    """Reading behind its end would be a crash."""
    checkpoint, *_ = imported(name)
    with pytest.raises(CheckpointError, match=f"its table has {rows} positions and a context of {rows + 16} is wanted"):
        import_onnx(checkpoint, context=rows + 16)


def test_an_unknown_operator_is_named_with_its_node(imported: Any, tmp_path: Path) -> None:
    checkpoint, *_ = imported("ours, any step")
    model = onnx.load(tmp_path / "model.onnx")
    index = next(index for index, node in enumerate(model.graph.node) if node.op_type == "Softmax")
    node = model.graph.node[index]
    model.graph.node[index].CopyFrom(
        helper.make_node("Hardmax", node.input, node.output, name=node.name, domain="com.example")
    )
    path = tmp_path / "other.onnx"
    onnx.save(model, path)
    with pytest.raises(CheckpointError) as caught:
        import_onnx(open_checkpoint(str(path), "onnx"), context=64)
    assert str(caught.value) == f"{path}: node {node.name} (com.example::Hardmax): the operator is not known"
    assert checkpoint.path != path
