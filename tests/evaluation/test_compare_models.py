"""Perplexity, agreement and KL divergence against plain sums over all logits at once."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fake_executor import FakeExecutor

from vamc_py.errors import UserError
from vamc_py.evaluation.compare import compare, kl_divergence, log_softmax

VOCAB = 11


class SteppingExecutor(FakeExecutor):
    """The fake with steps: logits of each wanted row from the history up to it, off by ``noise``."""

    def __init__(self, prefill: int, noise: float = 0.0, vocab: int = VOCAB) -> None:
        super().__init__(vocab)
        self.manifest = SimpleNamespace(limits=SimpleNamespace(prefill=prefill))
        self.noise = noise
        self.largest = 0  # tokens of a step

    def step(self, tokens: Any, positions: Any, slots: Any, rows: Any) -> Any:
        self.largest = max(self.largest, len(tokens))
        found = [self.feed([token], slot=0, start=int(at)) for token, at in zip(tokens, positions, strict=True)]
        return np.asarray([found[row] for row in rows], np.float32).reshape(-1, self.vocab_size)

    def _logits(self, history: Any) -> Any:
        logits = super()._logits(history)
        return (logits + np.float32(self.noise) * np.cos(np.arange(self.vocab_size) + len(history))).astype(np.float32)


def scored_logits(executor: SteppingExecutor, window: Any) -> Any:
    return np.stack([executor._logits(window[: i + 1]) for i in range(len(window) // 2, len(window) - 1)])


@given(
    context=st.integers(4, 90),
    prefill=st.tuples(st.integers(1, 100), st.integers(1, 100)),
    noise=st.sampled_from([0.0, 0.1, 5.0]),
    seed=st.integers(0, 99),
)
def test_against_all_logits_at_once(context: int, prefill: tuple[int, int], noise: float, seed: int) -> None:
    windows = list(np.random.default_rng(seed).integers(0, VOCAB, (2, context)))
    executors = [SteppingExecutor(prefill[0]), SteppingExecutor(prefill[1], noise)]
    reference, figures = compare(executors, windows, reference=True)  # type: ignore[arg-type]
    p, q = (np.concatenate([scored_logits(each, w) for w in windows]).astype(np.longdouble) for each in executors)
    p, q = (np.exp(each) / np.exp(each).sum(axis=1, keepdims=True) for each in (p, q))
    targets = np.concatenate([w[context // 2 + 1 :] for w in windows])
    kl = (p * np.log(p / q)).sum(axis=1).astype(float)
    rows = np.arange(len(targets))
    assert reference.divergence is None
    assert reference.ppl == pytest.approx(math.exp(-np.log(p[rows, targets]).mean()), rel=1e-9)
    assert figures.ppl == pytest.approx(math.exp(-np.log(q[rows, targets]).mean()), rel=1e-9)
    assert figures.tokens == len(targets) == 2 * (context - 1 - context // 2)
    assert figures.divergence is not None
    assert figures.divergence.kl_mean == pytest.approx(kl.mean(), rel=1e-6, abs=1e-9)
    assert figures.divergence.kl_p99 == pytest.approx(np.percentile(kl, 99), rel=1e-6, abs=1e-9)
    assert figures.divergence.agreement == (p.argmax(axis=1) == q.argmax(axis=1)).mean()
    assert all(each.largest <= limit for each, limit in zip(executors, prefill, strict=True))


def test_without_a_reference_models_are_not_compared() -> None:
    executors: Any = [SteppingExecutor(8), SteppingExecutor(8, 0.5)]
    windows = [np.arange(10) % VOCAB]
    alone = compare(executors, windows, reference=False)
    beside = compare(executors, windows, reference=True)
    assert [one.divergence for one in alone] == [None, None]
    assert [one.ppl for one in alone] == [one.ppl for one in beside]


def test_other_vocabularies_are_refused() -> None:
    executors: Any = [SteppingExecutor(8), SteppingExecutor(8, vocab=12)]
    with pytest.raises(UserError, match="vocabularies of 11 and 12 tokens"):
        compare(executors, [np.arange(8)], reference=True)


@given(scale=st.sampled_from([0.0, 1.0, 80.0, 1e30]), seed=st.integers(0, 99))
def test_kl_of_large_logits_is_finite_and_never_negative(scale: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    one, other = (log_softmax((random.normal(size=(5, 7)) * scale).astype(np.float32)) for _ in range(2))
    assert np.isfinite(one).all()
    assert (kl_divergence(one, other) >= 0).all()
    np.testing.assert_array_equal(kl_divergence(one, one), 0)
    np.testing.assert_allclose(np.exp(one).sum(axis=1), 1, rtol=1e-12)
