"""The least work of a model's shape agrees with what ``vamc-py bench`` counts for an artifact."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.benchmark_results import SHAPE
from support.checkpoints import model_config

from benchmarks.shape import ModelShape
from vamc_py.artifact.manifest import ModelFacts
from vamc_py.runtime.limits import linear_weights

FACTS = ModelFacts(
    architecture="qwen3",
    layers=SHAPE.layers,
    hidden_size=SHAPE.hidden,
    intermediate_size=SHAPE.intermediate,
    heads=SHAPE.heads,
    kv_heads=SHAPE.kv_heads,
    head_dim=SHAPE.head_dim,
    vocab_size=SHAPE.vocabulary,
    tied_embedding=True,
    max_positions=512,
)


def test_weights_are_those_of_the_runtime() -> None:
    assert SHAPE.layer_weights == linear_weights(FACTS)


def test_bytes_of_weights_have_a_scale_for_each_row() -> None:
    rows = 2 * (64 + 2 * 32 + 64 + 2 * 96 + 64) + 288
    assert SHAPE.weight_bytes == SHAPE.layer_weights + 64 * 288 + 4 * rows


@given(st.integers(1, 300))
def test_a_prompt_is_its_tokens_one_after_the_other(tokens: int) -> None:
    """Token by token the same attention is computed; what is behind the last one then comes at every token, not at the
    last alone."""
    steps = SHAPE.decode(0, 1, tokens)
    lm_head = SHAPE.hidden * SHAPE.vocabulary
    last_layer = SHAPE.hidden * (SHAPE.heads * SHAPE.head_dim + 3 * SHAPE.intermediate)
    spared = 2 * (tokens - 1) * (lm_head + last_layer)
    assert SHAPE.prefill(tokens).operations == pytest.approx(steps.operations - spared)
    assert SHAPE.prefill(tokens).read == SHAPE.weight_bytes


@given(st.integers(0, 500), st.integers(1, 16), st.integers(1, 20))
def test_sequences_share_the_weights_alone(context: int, batch: int, steps: int) -> None:
    one, many = SHAPE.decode(context, 1, steps), SHAPE.decode(context, batch, steps)
    assert many.operations == pytest.approx(batch * one.operations)
    weights = steps * SHAPE.weight_bytes
    assert many.read - weights == pytest.approx(batch * (one.read - weights))


def test_the_shape_of_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(model_config(architecture="qwen3")))
    assert ModelShape.read(tmp_path) == SHAPE


def test_without_a_head_size_it_is_the_quotient(tmp_path: Path) -> None:
    config = model_config(architecture="llama")
    del config["head_dim"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert ModelShape.read(tmp_path) == SHAPE
