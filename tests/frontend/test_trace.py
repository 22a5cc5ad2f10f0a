"""The exported graph computes what the module computes, for any lengths, and holds no weight."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import tvm
from support.checkpoints import model_config
from support.run_torch import built_in, random_step, random_weights, run_traced
from torch.export.graph_signature import InputKind
from tvm import relax
from tvm.relax.frontend.torch import from_exported_program

from vamc_py.frontend.model_config import ModelConfig, expected_tensors
from vamc_py.frontend.trace import Traced, importable, trace

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
CONFIGS = {
    "qwen2": model_config(architecture="qwen2", tied=False),
    "qwen3": model_config(architecture="qwen3"),
    "qwen3 yarn, 5 layers": model_config(architecture="qwen3", layers=5, rope_scaling=YARN),
    "llama, 1 layer": model_config(architecture="llama", layers=1),
}
LENGTHS = [(3, 5), (1, 7), (5, 0), (1, 0), (4, 4)]  # new tokens, past positions


@pytest.fixture(scope="module", params=CONFIGS)
def traced(request: pytest.FixtureRequest) -> Traced:
    return trace(ModelConfig.from_hf(CONFIGS[request.param]))


@torch.no_grad()
@pytest.mark.parametrize(("new", "past"), LENGTHS)
def test_graph_equals_module(traced: Traced, new: int, past: int) -> None:
    weights = random_weights(traced.model)
    step = random_step(traced.model, new, past)
    expected = built_in(traced.model, weights)(**step.arguments("additive"))
    torch.testing.assert_close(run_traced(traced, weights, step), expected, rtol=1e-5, atol=1e-4)


def test_names_give_every_role(traced: Traced) -> None:
    inputs, model = traced.inputs, traced.model
    placeholders = [node.name for node in traced.program.graph.nodes if node.op == "placeholder"]
    past = [name for pair in inputs.past for name in pair]
    users = [inputs.input_ids, inputs.attention_mask, inputs.position_ids, *past]
    assert placeholders == [*traced.parameters, *traced.buffers, *users]
    shapes = {node.name: node.meta["val"].shape for node in traced.program.graph.nodes if node.op == "placeholder"}
    (_, new), (_, _, _, total) = shapes[inputs.input_ids], shapes[inputs.attention_mask]
    assert len(inputs.past) == model.layers
    for name in past:
        assert tuple(shapes[name][:2]) == (1, model.kv_heads)
        assert shapes[name][2] + new == total
    results = [node.name for node in traced.program.graph.output_node().args[0]]
    assert results == [traced.outputs.logits, *(name for pair in traced.outputs.present for name in pair)]


def test_parameters_are_the_checkpoint_s_and_hold_nothing(traced: Traced) -> None:
    shapes = {node.name: node.meta["val"].shape for node in traced.program.graph.nodes if node.op == "placeholder"}
    named = {tensor: tuple(shapes[placeholder]) for placeholder, tensor in traced.parameters.items()}
    assert named == expected_tensors(traced.model)
    for placeholder, name in traced.program.graph_signature.inputs_to_parameters.items():
        parameter = traced.program.state_dict[name]
        assert parameter.untyped_storage().nbytes() == 4, placeholder
        assert parameter.dtype == torch.float32


def test_buffers_are_real(traced: Traced) -> None:
    (frequencies,) = traced.buffer_values().values()
    expected = traced.model.rope.inverse_frequencies(traced.model.head_dim)
    np.testing.assert_array_equal(frequencies.numpy(), expected)


def test_graph_holds_only_work(traced: Traced) -> None:
    kinds = {str(node.target) for node in traced.program.graph.nodes if node.op == "call_function"}
    allowed = "embedding linear mul add pow mean rsqrt matmul softmax silu cat neg slice cos sin to "
    allowed += "view reshape expand unsqueeze transpose sym_size"
    assert {kind.split(".")[1] for kind in kinds if kind.startswith("aten.")} <= set(allowed.split())
    casts = [node for node in traced.program.graph.nodes if node.target is torch.ops.aten.to.dtype]
    assert [node.args[1] for node in casts] == [torch.float32]  # the position


@torch.no_grad()
def test_insert_slice_computes_the_last_row() -> None:
    model = ModelConfig.from_hf(CONFIGS["qwen3"])
    weights = random_weights(model)
    step = random_step(model, 4, 3)
    logits, _ = run_traced(trace(model, insert_slice=True), weights, step)
    expected, _ = built_in(model, weights)(**step.arguments("additive"))
    torch.testing.assert_close(logits, expected[:, -1:], rtol=1e-5, atol=1e-5)


def test_a_model_of_any_size_takes_no_memory() -> None:
    config = model_config(architecture="qwen3", layers=2, hidden=1 << 14, intermediate=1 << 17, vocab=1 << 20)
    traced = trace(ModelConfig.from_hf(config))  # 100 GB of weights
    stored = sum(value.untyped_storage().nbytes() for value in traced.program.state_dict.values())
    assert stored < 1000


def as_arguments(traced: Traced, weights: dict[str, torch.Tensor], arguments: dict[str, Any]) -> dict[str, Any]:
    inputs = traced.inputs
    named: dict[str, Any] = {placeholder: weights[tensor] for placeholder, tensor in traced.parameters.items()}
    named |= {name: arguments[name] for name in (inputs.input_ids, inputs.attention_mask, inputs.position_ids)}
    for names, pair in zip(inputs.past, arguments["past_key_values"], strict=True):
        named |= dict(zip(names, pair, strict=True))
    return named


@torch.no_grad()
def test_tvm_imports_it_undecomposed(traced: Traced) -> None:
    program = importable(traced.program)
    assert all(spec.kind is not InputKind.PARAMETER for spec in program.graph_signature.input_specs)
    module = from_exported_program(program, run_ep_decomposition=False)
    names = [parameter.name for parameter in module["main"].params]
    machine = relax.VirtualMachine(tvm.compile(module, target="llvm"), tvm.cpu())
    weights = random_weights(traced.model)
    for new, past in LENGTHS:
        step = random_step(traced.model, new, past)
        named = as_arguments(traced, weights, step.arguments("additive"))
        results = machine["main"](*(tvm.runtime.tensor(named[name].contiguous().numpy()) for name in names))
        logits, present = built_in(traced.model, weights)(**step.arguments("additive"))
        expected = [logits, *(tensor for pair in present for tensor in pair)]
        assert len(results) == len(expected)
        for result, tensor in zip(results, expected, strict=True):
            np.testing.assert_allclose(result.numpy(), tensor.numpy(), rtol=1e-4, atol=1e-4)
