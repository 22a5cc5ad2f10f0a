"""A graph grown from two layers is node for node the graph of the whole model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.checkpoints import model_config
from torch import fx

from vamc_py.frontend.model_config import ModelConfig
from vamc_py.frontend.models.qwen2 import Qwen2ForCausalLM
from vamc_py.frontend.models.qwen3 import Qwen3ForCausalLM
from vamc_py.frontend.trace import Traced, trace, trace_module
from vamc_py.frontend.weightless import build_weightless

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}


def whole_trace(model: ModelConfig) -> Traced:
    kind = {"qwen2": Qwen2ForCausalLM, "qwen3": Qwen3ForCausalLM}[model.architecture]
    return trace_module(build_weightless(lambda: kind(model)), model, mask="additive")


def nodes(traced: Traced) -> list[Any]:
    """Every node without its name: what it computes, from which earlier nodes, in which shape."""
    place = {node: index for index, node in enumerate(traced.program.graph.nodes)}

    def shape(node: fx.Node) -> Any:
        value = node.meta.get("val")
        return [str(size) for size in value.shape] if isinstance(value, torch.Tensor) else str(value)

    return [
        (
            node.op,
            str(node.target),
            fx.node.map_arg((node.args, node.kwargs), lambda arg: f"#{place[arg]}"),
            shape(node),
        )
        for node in place
    ]


@pytest.mark.parametrize(
    "config",
    [
        model_config(architecture="qwen2", layers=3, tied=False),
        # Past ten layers, where a layer's number has two digits.
        model_config(architecture="qwen3", layers=12, hidden=32, intermediate=32, heads=2),
        model_config(architecture="llama", layers=4, rope_scaling=YARN),
    ],
)
def test_equals_the_whole_trace(config: dict[str, Any]) -> None:
    model = ModelConfig.from_hf(config)
    grown, whole = trace(model), whole_trace(model)
    assert nodes(grown) == nodes(whole)
    assert grown.inputs == whole.inputs
    assert list(grown.parameters.items()) == list(whole.parameters.items())
    assert grown.buffers == whole.buffers
    ours, theirs = grown.program, whole.program
    assert [(spec.kind, spec.target) for spec in ours.graph_signature.input_specs] == [
        (spec.kind, spec.target) for spec in theirs.graph_signature.input_specs
    ]
    assert {name: value.shape for name, value in ours.state_dict.items()} == {
        name: value.shape for name, value in theirs.state_dict.items()
    }
    assert ours.call_spec == theirs.call_spec
    assert {str(symbol) for symbol in ours.range_constraints} == {str(symbol) for symbol in theirs.range_constraints}
