"""A model that the passes know only in part compiles, is right, and says what stayed slow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.checkpoints import model_config
from support.relax_modules import StepModel, apply_passes, operators_in
from support.run_torch import random_step
from torch import nn

from vamc_py.frontend.import_relax import import_traced
from vamc_py.frontend.model_config import ModelConfig
from vamc_py.frontend.models.layers import RotaryEmbedding, attend, rotate
from vamc_py.frontend.trace import trace_module
from vamc_py.frontend.weightless import build_weightless
from vamc_py.passes.lower_reference import LowerReference
from vamc_py.pipeline.default import Numbers, default_pipeline
from vamc_py.pipeline.program import Program

CONFIG = ModelConfig.from_hf(model_config(architecture="llama", layers=1, hidden=16, heads=2, kv_heads=2, head_dim=8))
PASSES = tuple(one for one in default_pipeline(Numbers("fp32", lm_head=False)) if one.stage != "lower")


class OtherModel(nn.Module):
    """LayerNorm for RMSNorm, GELU for SiLU, gate and up in one projection, a tanh over the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(CONFIG.vocab_size, 16)
        self.norms = nn.ModuleList(nn.LayerNorm(16) for _ in range(3))
        self.qkv = nn.Linear(16, 48)
        self.out, self.gate_up, self.down = nn.Linear(16, 16), nn.Linear(16, 48), nn.Linear(24, 16, bias=False)
        self.rotary = RotaryEmbedding(CONFIG.rope, 8)
        self.head = nn.Linear(16, CONFIG.vocab_size)

    def forward(self, input_ids: Any, attention_mask: Any, position_ids: Any, past_key_values: Any) -> Any:
        x = self.embed(input_ids)
        split = self.qkv(self.norms[0](x)).view(1, -1, 3, 2, 8).unbind(2)
        q, k, v = (part.transpose(1, 2) for part in split)
        cos, sin = self.rotary(position_ids)
        (past_k, past_v) = past_key_values[0]
        k, v = torch.cat((past_k, rotate(k, cos, sin)), 2), torch.cat((past_v, v), 2)
        attended = attend(rotate(q, cos, sin), k, v, attention_mask).transpose(1, 2).reshape(1, -1, 16)
        x = x + self.out(attended)
        gate, up = self.gate_up(self.norms[1](x)).chunk(2, -1)
        x = x + self.down(nn.functional.gelu(gate) * up)
        return torch.tanh(self.head(self.norms[2](x))), [(k, v)]


@pytest.fixture(scope="module")
def program() -> Program:
    traced = trace_module(build_weightless(OtherModel), CONFIG, mask="additive")
    return apply_passes(import_traced(traced), *PASSES)


def test_what_is_known_is_raised(program: Program) -> None:
    found = operators_in(program)
    assert found["vamc.linear"] == 5
    assert found["vamc.cached_attention"] + found["vamc.qkv_attention"] == 1
    assert {"nn.layer_norm": 3, "nn.gelu": 1, "tanh": 1}.items() <= found.items()


def test_the_notes_say_what_is_slow(program: Program) -> None:
    notes = apply_passes(program, LowerReference()).notes
    assert "strided-slice did not fire: the logits do not come from a linear layer" in notes
    for name, count in (("nn.layer_norm", 3), ("nn.gelu", 1), ("tanh", 1)):
        assert f"{count} x {name} runs on TVM's unscheduled loops" in notes


@torch.no_grad()
def test_step_computes_what_torch_computes(program: Program) -> None:
    torch.manual_seed(0)
    model = OtherModel().eval()
    for parameter in model.parameters():
        parameter.normal_(std=0.4)
    whole = random_step(CONFIG, 9, 0)
    expected = model(**whole.arguments("additive"))[0][0].numpy()
    step = StepModel(program, model.state_dict())
    tokens = whole.input_ids[0].tolist()
    for first, last in ((0, 5), (5, 6), (6, 9)):
        logits = step(tokens[first:last], range(first, last))
        np.testing.assert_allclose(logits, expected[first:last], rtol=1e-4, atol=1e-5)
