"""The traced torch model with real weights: what the module has to compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from vamc_py.check.cut import CutModel
from vamc_py.check.scenario import Row, Scenario
from vamc_py.check.values import Array
from vamc_py.frontend.model_config import ModelConfig
from vamc_py.frontend.trace import Mask, Traced

MASKED = torch.finfo(torch.float32).min


@torch.no_grad()  # type: ignore[untyped-decorator, unused-ignore]
def run_exported(traced: Traced, weights: Mapping[str, torch.Tensor], arguments: Mapping[str, Any]) -> Any:
    """Runs the exported graph with real weights, by name of the checkpoint's tensor, in place of the stride-0 ones."""
    placeholders = traced.program.graph_signature.inputs_to_parameters
    parameters = {name: weights[traced.parameters[placeholder]] for placeholder, name in placeholders.items()}
    # Without guards: they refuse n = 1 and p = 0, which the graph computes all the same.
    module = traced.program.module(check_guards=False)
    return torch.func.functional_call(module, parameters, kwargs=dict(arguments))


def causal_mask(new: int, past: int, kind: Mask) -> torch.Tensor:
    """f32 [1, 1, new, past + new]."""
    ones = torch.ones(new, past + new).tril(past)[None, None]
    return ones if kind == "ones" else torch.zeros(()).where(ones > 0, MASKED)


def torch_logits(cut: CutModel, scenario: Scenario) -> dict[Row, Array]:
    """The logits f32 [vocabulary] of every token of the scenario."""
    names = dict.fromkeys(cut.traced.parameters.values())
    weights = {name: torch.from_numpy(cut.tensors.read(name).astype(np.float32)) for name in names}
    logits: dict[Row, Array] = {}
    for index, sequence in enumerate(scenario.sequences):
        rows = _sequence_logits(cut.traced, cut.model, weights, sequence)
        logits.update({(index, position): row for position, row in enumerate(rows)})
    return logits


def _sequence_logits(
    traced: Traced, model: ModelConfig, weights: Mapping[str, torch.Tensor], tokens: Array
) -> Sequence[Array]:
    rows = _logits(traced, model, weights, tokens)
    if len(rows) == len(tokens):
        return list(rows)
    # With insert_slice only the last token has logits.
    return [_logits(traced, model, weights, tokens[: length + 1])[-1] for length in range(len(tokens))]


def _logits(traced: Traced, model: ModelConfig, weights: Mapping[str, torch.Tensor], tokens: Array) -> Array:
    """f32 [n or 1, vocabulary] of a whole sequence."""
    n = len(tokens)
    empty = torch.zeros((1, model.kv_heads, 0, model.head_dim))
    arguments = {
        "input_ids": torch.from_numpy(tokens)[None],
        "attention_mask": causal_mask(n, 0, traced.mask),
        "position_ids": torch.arange(n)[None],
        "past_key_values": [(empty, empty) for _ in range(model.layers)],
    }
    logits: Array = run_exported(traced, weights, arguments)[0][0].numpy()
    return logits
