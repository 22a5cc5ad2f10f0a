"""The scenario runs every token once, in order, and mixes sequences; the cut model is a prefix of the whole."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.checkpoints import model_config, write_checkpoint
from support.end_to_end import configuration

from vamc_py.check import cut
from vamc_py.check.scenario import DECODED, SLOTS, make_scenario, most_prompt, most_tokens, rows_of
from vamc_py.compiler import open_model
from vamc_py.passes.quantize_activations import QuantizeActivations
from vamc_py.passes.quantize_int8 import QuantizeInt8
from vamc_py.pipeline.runner import planned


@given(st.integers(2, 70), st.integers(1, 9), st.integers(0, 3))
def test_every_token_runs_once_and_in_order(tokens: int, vocabulary: int, seed: int) -> None:
    scenario = make_scenario(vocabulary, tokens, seed)
    rows = [row for call in scenario.calls for row in rows_of(call)]
    for index, sequence in enumerate(scenario.sequences):
        assert [position for one, position in rows if one == index] == list(range(len(sequence)))
        assert sequence.max() < vocabulary
    assert rows == [row for call in scenario.separately() for row in rows_of(call)]
    assert {len(call) for call in scenario.calls} == {1, 2}
    assert any(sum(len(run.positions) for run in call) == 1 for call in scenario.calls)


@given(st.integers(2, 70))
def test_pages_are_not_in_order_and_belong_to_one_slot(tokens: int) -> None:
    from vamc_py.check.arguments import _pages

    pages = _pages(make_scenario(9, tokens))
    assert len(pages) == len(SLOTS)
    assert len(set(pages.reshape(-1).tolist())) == pages.size
    assert pages.shape[1] * 16 >= tokens + 2
    assert pages.reshape(-1).tolist() != sorted(pages.reshape(-1).tolist())


def test_a_cut_model_reads_the_first_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path / "model", architecture="qwen3", layers=3, vocab=288, tied=False)
    config = configuration(tmp_path / "model", tmp_path).config
    checkpoint, model = open_model(config)
    monkeypatch.setattr(cut, "MOST_TOKENS", 100)
    small = cut.cut_model(config, checkpoint, model, 2)
    assert (small.model.layers, small.model.vocab_size) == (2, 100)
    assert small.description == "the first 2 of 3 layers and the first 100 of 288 tokens"
    names = set(small.traced.parameters.values())
    assert "lm_head.weight" in names
    assert not any(name.startswith("model.layers.2.") for name in names)
    for name in ("lm_head.weight", "model.layers.1.mlp.up_proj.weight"):
        read = small.tensors.read(name)
        np.testing.assert_array_equal(read, checkpoint.read(name)[: len(read)])
    assert small.tensors.read("lm_head.weight").shape == (100, model.hidden_size)


def test_a_cut_pipeline_says_nothing_of_weights_that_were_cut_away(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "model", architecture="qwen3", layers=3)
    loaded = configuration(tmp_path / "model", tmp_path, dtype="int8")
    checkpoint, model = open_model(loaded.config)
    small = cut.cut_model(loaded.config, checkpoint, model, 2)
    wide = ("model.layers.2.*", "model.layers.[12].*", "lm_head", "*.down_proj", "nothing")
    passes = planned([QuantizeInt8(lm_head=False), QuantizeActivations("int8_g32", wide_rows=3, wide=wide)])
    first, second = small.pipeline(passes)
    assert first == passes[0]
    kept = QuantizeActivations("int8_g32", 3, ("model.layers.[12].*", "lm_head", "*.down_proj", "nothing"))
    assert (second.one, second.label) == (kept, "quantize-activations")


@pytest.mark.parametrize("prefill", [16, 32, 64])
def test_a_prompt_as_long_as_there_is_room_for(prefill: int) -> None:
    for context in (prefill, 128):
        tokens = most_prompt(context, prefill, 40)
        fits = [
            count
            for count in range(2, 41)
            if count + DECODED <= context and most_tokens(make_scenario(2, count).calls) <= prefill
        ]
        assert tokens == max(fits)
    assert most_prompt(128, 64, 40) == 40


def test_a_cut_config_is_one_of_the_cut_model() -> None:
    whole = {**model_config(architecture="qwen2"), "layer_types": ["full_attention"] * 2, "pad_token_id": 287}
    model = cut.ModelConfig.from_hf({**whole, "num_hidden_layers": 1, "layer_types": None, "vocab_size": 64})
    changed = cut.cut_config(whole, model)
    assert (changed["num_hidden_layers"], changed["vocab_size"], changed["layer_types"]) == (1, 64, ["full_attention"])
    assert changed["pad_token_id"] is None
    assert cut.ModelConfig.from_hf(json.loads(json.dumps(changed))) == model
