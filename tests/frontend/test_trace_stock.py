"""transformers' own models trace, tidy and import as ours do."""

from __future__ import annotations

import pytest
import torch
from support.checkpoints import model_config
from support.run_torch import random_step, random_weights, run_traced, stock_model
from support.stock_trace import trace_stock
from tvm.relax.frontend.torch import from_exported_program

from vamc_py.frontend.trace import importable


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "llama"])
def test_stock_trace(architecture: str) -> None:
    config = model_config(architecture=architecture)
    traced = trace_stock(config)
    weights = random_weights(traced.model)
    step = random_step(traced.model, 3, 4)
    expected = stock_model(config, weights)(**step.arguments("additive"))
    torch.testing.assert_close(run_traced(traced, weights, step), expected, rtol=1e-5, atol=1e-4)
    # Its rotary embedding runs under no_grad and autocast: regions the importer does not know, inlined by then.
    module = from_exported_program(importable(traced.program), run_ep_decomposition=False)
    assert len(module["main"].params) == len(traced.parameters) + 3 + 2 * traced.model.layers
