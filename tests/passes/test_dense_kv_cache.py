"""dense-kv-cache: right for any attention with the input's mask, one slot at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import tvm
from support.checkpoints import model_config
from support.relax_modules import StepModel, apply_passes, operators_in
from support.run_torch import random_step, random_weights
from torch import nn
from tvm import relax

from vamc_py.errors import UserError
from vamc_py.frontend.import_relax import import_traced
from vamc_py.frontend.model_config import ModelConfig
from vamc_py.frontend.models.layers import RotaryEmbedding, rotate
from vamc_py.frontend.models.qwen3 import Qwen3ForCausalLM
from vamc_py.frontend.trace import trace, trace_module
from vamc_py.frontend.weightless import build_weightless
from vamc_py.passes.dense_kv_cache import DenseKvCache
from vamc_py.pipeline.default import Numbers, default_pipeline
from vamc_py.pipeline.program import ONE_SLOT_ATTRIBUTE, Program, attribute, layout

MODEL = ModelConfig.from_hf(model_config(architecture="qwen3", layers=2, hidden=32, heads=4, kv_heads=2, head_dim=16))
REWRITE = tuple(one for one in default_pipeline(Numbers("fp32")) if one.stage != "lower")
UNTIL = REWRITE[: [one.name for one in REWRITE].index("dense-kv-cache")]


def without_raised_attention(passes: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(one for one in passes if one.name != "raise-attention")


class SoftCapped(nn.Module):
    """One layer whose scores go through a tanh: an attention that no pass knows. Its mask is of ones."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(MODEL.vocab_size, 32)
        self.qkv, self.out = nn.Linear(32, 3 * 32, bias=False), nn.Linear(32, 32, bias=False)
        self.rotary = RotaryEmbedding(MODEL.rope, 16)
        self.head = nn.Linear(32, MODEL.vocab_size, bias=False)

    def forward(self, input_ids: Any, attention_mask: Any, position_ids: Any, past_key_values: Any) -> Any:
        x = self.embed(input_ids)
        q, k, v = (part.transpose(1, 2) for part in self.qkv(x).view(1, -1, 3, 2, 16).unbind(2))
        cos, sin = self.rotary(position_ids)
        k = torch.cat((past_key_values[0][0], rotate(k, cos, sin)), 2)
        v = torch.cat((past_key_values[0][1], v), 2)
        scores = 3 * torch.tanh(rotate(q, cos, sin) @ k.transpose(2, 3) / 3)
        weights = torch.softmax(scores + (attention_mask - 1) * 1e9, -1)
        return self.head(x + self.out((weights @ v).transpose(1, 2).reshape(1, -1, 32))), [(k, v)]


ONE_LAYER = ModelConfig.from_hf(
    model_config(architecture="llama", layers=1, hidden=32, heads=2, kv_heads=2, head_dim=16)
)


def step_in_chunks(step: StepModel, ids: list[int]) -> np.ndarray:
    parts = [step(ids[a:b], range(a, b)) for a, b in ((0, 4), (4, 5), (5, len(ids)))]
    return np.concatenate(parts)


def test_equals_torch_where_the_attention_is_unknown() -> None:
    torch.manual_seed(0)
    model = SoftCapped().eval()
    program = apply_passes(import_traced(trace_module(build_weightless(SoftCapped), ONE_LAYER, mask="ones")), *REWRITE)
    whole = random_step(ONE_LAYER, 9, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4)
        expected = model(**whole.arguments("ones"))[0][0].numpy()
    got = step_in_chunks(StepModel(program, model.state_dict()), whole.input_ids[0].tolist())
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    assert any("dense-kv-cache fired" in note for note in program.notes)


def test_equals_the_built_in_model_with_an_additive_mask() -> None:
    weights = random_weights(MODEL)
    model = Qwen3ForCausalLM(MODEL).eval()
    model.load_state_dict(weights, strict=False)
    program = apply_passes(import_traced(trace(MODEL)), *without_raised_attention(REWRITE))
    whole = random_step(MODEL, 9, 0)
    with torch.no_grad():
        expected = model(**whole.arguments("additive"))[0][0].numpy()
    got = step_in_chunks(StepModel(program, weights), whole.input_ids[0].tolist())
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_the_step_has_caches_and_says_that_it_takes_one_slot() -> None:
    program = apply_passes(import_traced(trace(MODEL)), *without_raised_attention(UNTIL), DenseKvCache())
    names = [var.name for var in layout(program.function)[1]]
    assert names == ["k_cache_0", "v_cache_0", "k_cache_1", "v_cache_1"]
    assert attribute(program.function, ONE_SLOT_ATTRIBUTE, 0) == 1
    found = operators_in(program)
    assert found["vamc.cache_append"] == 4
    assert found["concat"] == 0
    relax.analysis.well_formed(program.module)


def test_does_not_fire_on_a_step() -> None:
    program = apply_passes(import_traced(trace(MODEL)), *UNTIL)
    after = apply_passes(program, DenseKvCache())
    tvm.ir.assert_structural_equal(after.module, program.module)


def test_refuses_a_model_that_counts_positions() -> None:
    class Counting(SoftCapped):
        def forward(self, input_ids: Any, attention_mask: Any, position_ids: Any, past_key_values: Any) -> Any:
            return super().forward(input_ids, attention_mask.tril(), position_ids, past_key_values)

    traced = trace_module(build_weightless(Counting), ONE_LAYER, mask="ones")
    program: Program = apply_passes(import_traced(traced), *UNTIL)
    with pytest.raises(UserError, match=r"relax\.tril, which may count positions"):
        apply_passes(program, DenseKvCache())
