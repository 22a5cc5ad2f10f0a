"""RoPE's numbers are those of transformers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.checkpoints import model_config
from support.stock_trace import stock_config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding
from transformers.utils import logging

from vamc_py.frontend.model_config import ModelConfig


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> Iterator[None]:
    """transformers logs advice about unusual scalings."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    yield
    logging.set_verbosity(verbosity)


def compare(config: dict[str, Any], rtol: float) -> None:
    rope = ModelConfig.from_hf(config).rope
    stock = Qwen3RotaryEmbedding(stock_config(config))
    ours = rope.inverse_frequencies(config["head_dim"])
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, stock.inv_freq.numpy(), rtol=rtol, atol=0)
    assert rope.attention_scaling() == pytest.approx(stock.attention_scaling, rel=1e-12)


def test_these_are_the_kinds_we_know() -> None:
    assert {"default", "yarn"} <= set(ROPE_INIT_FUNCTIONS)


@given(theta=st.floats(100, 1e8), half=st.integers(1, 128))
def test_default(theta: float, half: int) -> None:
    compare(model_config(architecture="qwen3", head_dim=2 * half, rope_theta=theta), rtol=2e-6)


optional_mscale = st.one_of(st.none(), st.floats(0.1, 2.0))


@given(
    half=st.integers(8, 128),
    factor=st.floats(1.0, 64.0),
    original=st.integers(512, 65536),
    beta_slow=st.floats(0.5, 4),
    spread=st.floats(2, 64),
    mscales=st.tuples(optional_mscale, optional_mscale),
    attention_factor=st.one_of(st.none(), st.floats(0.5, 2.0)),
    truncate=st.booleans(),
)
def test_yarn(
    half: int,
    factor: float,
    original: int,
    beta_slow: float,
    spread: float,
    mscales: tuple[float | None, float | None],
    attention_factor: float | None,
    truncate: bool,
) -> None:
    scaling = {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": original,
        "beta_slow": beta_slow,
        "beta_fast": beta_slow * spread,
        "mscale": mscales[0],
        "mscale_all_dim": mscales[1],
        "attention_factor": attention_factor,
        "truncate": truncate,
    }
    compare(
        model_config(
            architecture="qwen3",
            head_dim=2 * half,
            rope_theta=1e6,
            max_positions=original,
            rope_scaling={key: value for key, value in scaling.items() if value is not None},
        ),
        rtol=2e-5,  # a steep ramp magnifies the rounding of transformers' float32
    )
