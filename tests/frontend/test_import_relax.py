"""The import gives a function whose inputs, weights and numbers are the model's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from support.checkpoints import model_config
from support.relax_modules import Compiled, MainModel
from support.run_torch import built_in, random_step, random_weights
from tvm import relax

from vamc_py.errors import CheckpointError
from vamc_py.frontend.import_relax import import_traced
from vamc_py.frontend.model_config import ModelConfig, expected_tensors
from vamc_py.frontend.models.qwen2 import Qwen2ForCausalLM
from vamc_py.frontend.trace import Traced, trace, trace_module
from vamc_py.frontend.weightless import build_weightless
from vamc_py.pipeline.program import MAIN, Program, attribute, layout
from vamc_py.weights.plan import Cast, Recipe

CONFIGS = {
    "qwen2 untied": model_config(architecture="qwen2", tied=False, layers=1),
    "qwen3 tied, 3 layers": model_config(architecture="qwen3", layers=3),
}


@pytest.fixture(scope="module", params=CONFIGS)
def traced(request: pytest.FixtureRequest) -> Traced:
    return trace(ModelConfig.from_hf(CONFIGS[request.param]))


@pytest.fixture(scope="module")
def program(traced: Traced) -> Program:
    return import_traced(traced)


def dimensions(var: Any) -> list[str | int]:
    return [int(d) if str(d).startswith("T.") else str(d) for d in var.ty.shape]


def test_inputs_come_first_in_a_fixed_order(traced: Traced, program: Program) -> None:
    assert program.name == MAIN
    inputs, caches, _ = layout(program.function)
    assert caches == []
    assert attribute(program.function, "vamc.inputs", 0) == len(inputs)
    found = {var.name: (str(var.ty.dtype), dimensions(var)) for var in inputs}
    model = traced.model
    past = ("float32", [1, model.kv_heads, "p", model.head_dim])
    assert found == {
        "input_ids": ("int64", [1, "n"]),
        "attention_mask": ("float32", [1, 1, "n", "p + n"]),
        "position_ids": ("int64", [1, "n"]),
        **{f"past_{part}_{layer}": past for layer in range(model.layers) for part in ("k", "v")},
    }
    order = [f"past_{part}_{layer}" for layer in range(model.layers) for part in ("k", "v")]
    assert [var.name for var in inputs] == ["input_ids", "attention_mask", "position_ids", *order]


def test_weights_are_the_checkpoint_s_once_each(traced: Traced, program: Program) -> None:
    weights = layout(program.function)[2]
    shapes = {var.name: tuple(int(d) for d in var.ty.shape) for var in weights}
    assert shapes == expected_tensors(traced.model)
    assert len(weights) == len(shapes)
    assert {str(var.ty.dtype) for var in weights} == {"float32"}
    assert {name: program.plan[name] for name in program.plan} == {
        name: Recipe((name,), (Cast("float32"),)) for name in shapes
    }


def test_is_well_formed(program: Program) -> None:
    relax.analysis.well_formed(program.module)
    assert [gv.name_hint for gv in program.module.get_global_vars()] == [MAIN]
    assert relax.analysis.free_vars(program.function) == []
    assert program.notes == ()


@torch.no_grad()
def test_computes_what_torch_computes(traced: Traced, program: Program) -> None:
    weights = random_weights(traced.model)
    main, model = MainModel(program, weights), built_in(traced.model, weights)
    for new, past in ((3, 5), (1, 4), (4, 0), (1, 0)):
        step = random_step(traced.model, new, past)
        logits, present = model(**step.arguments("additive"))
        expected = [logits, *(part for pair in present for part in pair)]
        old = [part.numpy() for pair in step.past for part in pair]
        got = main(step.input_ids.numpy(), step.mask("additive").numpy(), step.position_ids.numpy(), old)
        assert len(got) == len(expected)
        for left, right in zip(got, expected, strict=True):
            np.testing.assert_allclose(left, right.numpy(), rtol=1e-4, atol=1e-4)


def test_an_unused_weight_is_no_parameter() -> None:
    """A tensor that the graph does not read is not loaded."""
    config = replace(ModelConfig.from_hf(CONFIGS["qwen2 untied"]), vocab_size=4)

    class OneWeight(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used = torch.nn.Parameter(torch.zeros(4, 4))
            self.unused = torch.nn.Parameter(torch.zeros(4, 4))

        def forward(
            self, input_ids: Any, attention_mask: Any, position_ids: Any, past_key_values: Any
        ) -> tuple[Any, Any]:
            grown = [(torch.cat((k, k), 2), torch.cat((v, v), 2)) for k, v in past_key_values]
            hidden = attention_mask.sum(dim=(1, 3))[..., None] + input_ids[..., None] + position_ids[..., None]
            return torch.nn.functional.linear(hidden.expand(1, -1, 4), self.used), grown

    program = import_traced(trace_module(OneWeight(), config, mask="additive"))
    assert [var.name for var in layout(program.function)[2]] == ["used"]
    assert list(program.plan) == ["used"]
    n, p = 2, 3
    shape = (1, config.kv_heads, p, config.head_dim)
    past = [np.zeros(shape, "float32")] * (2 * config.layers)
    ids = np.array([[1, 2]])
    logits, *_ = Compiled(program)(ids, np.ones((1, 1, n, p + n), "float32"), ids, *past, np.eye(4, dtype="float32"))
    np.testing.assert_allclose(logits, np.repeat(5 + 2.0 * ids[..., None], 4, axis=2))


def test_refuses_an_input_without_a_role(traced: Traced) -> None:
    placeholder = next(name for name, tensor in traced.parameters.items() if tensor == "model.norm.weight")
    parameters = {name: tensor for name, tensor in traced.parameters.items() if name != placeholder}
    with pytest.raises(ValueError, match=f"inputs without a role: {placeholder}"):
        import_traced(replace(traced, parameters=parameters))


def test_a_model_without_logits_is_refused() -> None:
    class Embedding(Qwen2ForCausalLM):
        def forward(self, input_ids: Any, attention_mask: Any, position_ids: Any, past_key_values: Any) -> Any:
            return self.model(input_ids, attention_mask, position_ids, past_key_values)

    model = ModelConfig.from_hf(model_config(architecture="qwen2", layers=1))
    traced = trace_module(build_weightless(lambda: Embedding(model)), model, mask="additive")
    with pytest.raises(CheckpointError, match="instead of logits over its 288 tokens"):
        import_traced(traced)
