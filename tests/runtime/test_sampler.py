"""The sampler against a straightforward float64 reference that sorts everything."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from vamc_py.errors import UserError
from vamc_py.runtime.sampler import Sampler, distribution
from vamc_py.runtime.settings import SamplingSettings

VOCAB = 70  # more than one block of the top-k search

# Coarse values, so that ties are frequent.
logit_values = st.integers(-80, 80).map(lambda eighths: np.float32(eighths / 8))
logits_of_any_kind = arrays(np.float32, st.integers(1, VOCAB), elements=logit_values)
full_logits = arrays(np.float32, VOCAB, elements=logit_values)
cuts = st.builds(
    SamplingSettings,
    temperature=st.sampled_from([0.1, 0.6, 1.0, 1.7]),
    top_k=st.integers(0, VOCAB + 5),
    top_p=st.sampled_from([0.05, 0.3, 0.8, 0.95, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
)


def reference(logits: NDArray[np.float32], cut: SamplingSettings) -> dict[int, float]:
    """Token → probability; each step over a list sorted from likely to unlikely, of equals the lowest id first."""
    tokens = sorted(range(logits.size), key=lambda token: (-logits[token], token))
    if cut.top_k:
        least = logits[tokens[min(cut.top_k, len(tokens)) - 1]]
        tokens = [token for token in tokens if logits[token] >= least]
    weights = np.exp((logits[tokens].astype(np.float64) - logits.max()) / cut.temperature)
    before = np.concatenate([[0.0], np.cumsum(weights / weights.sum())[:-1]])
    kept = [
        (token, weight)
        for token, weight, mass in zip(tokens, weights, before, strict=True)
        if (cut.top_p == 1 or mass < cut.top_p) and weight >= cut.min_p * weights[0]
    ]
    whole = sum(weight for _, weight in kept)
    return {token: float(weight / whole) for token, weight in kept}


def near_a_border(logits: NDArray[np.float32], cut: SamplingSettings) -> bool:
    """Whether rounding decides if a token belongs to top-p or min-p; then reference and sampler may differ."""
    everything = reference(logits, SamplingSettings(temperature=cut.temperature, top_k=cut.top_k))
    masses = np.cumsum(list(everything.values()))
    ratios = np.array(list(everything.values())) / max(everything.values())
    return bool((abs(masses - cut.top_p) < 1e-12).any() and cut.top_p < 1) or bool(
        (abs(ratios - cut.min_p) < 1e-12).any() and cut.min_p < 1
    )


@given(logits_of_any_kind, cuts)
@settings(deadline=None, max_examples=300)
def test_distribution_is_the_reference(logits: NDArray[np.float32], cut: SamplingSettings) -> None:
    if near_a_border(logits, cut):
        return
    ids, probabilities = distribution(logits, cut)
    expected = reference(logits, cut)
    assert sorted(ids.tolist()) == sorted(expected)
    np.testing.assert_allclose(probabilities, [expected[token] for token in ids.tolist()], rtol=1e-9, atol=1e-300)


def test_distribution_of_a_full_vocabulary() -> None:
    logits = np.random.default_rng(0).normal(scale=2, size=151_936).astype(np.float32)
    for cut in (SamplingSettings(top_k=20, top_p=0.9), SamplingSettings(top_p=0.9), SamplingSettings(top_k=5000)):
        ids, probabilities = distribution(logits, cut)
        expected = reference(logits, cut)
        assert ids.tolist() == sorted(expected)
        np.testing.assert_allclose(probabilities, [expected[token] for token in ids.tolist()], rtol=1e-9)


def test_ties_at_top_p_go_to_the_lowest_ids() -> None:
    ids, _ = distribution(np.zeros(8, np.float32), SamplingSettings(top_p=0.5))
    assert ids.tolist() == [0, 1, 2, 3]


def test_banned_tokens_and_tiny_temperatures() -> None:
    logits = np.array([-np.inf, 1.0, 0.5, -np.inf], np.float32)
    ids, probabilities = distribution(logits, SamplingSettings(temperature=5e-324))
    assert dict(zip(ids.tolist(), probabilities.tolist(), strict=True))[1] == 1.0
    sampler = Sampler(SamplingSettings(seed=0), 4)
    assert {sampler.sample(logits) for _ in range(200)} == {1, 2}


def test_draws_follow_the_distribution() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    sampler = Sampler(SamplingSettings(seed=3), 4)
    draws = np.bincount([sampler.sample(logits) for _ in range(20_000)], minlength=4) / 20_000
    np.testing.assert_allclose(draws, [0.5, 0.3, 0.15, 0.05], atol=0.015)  # above 4 standard deviations


def test_the_seed_decides() -> None:
    logits = np.random.default_rng(1).normal(size=100).astype(np.float32)

    def draws(seed: int | None) -> list[int]:
        sampler = Sampler(SamplingSettings(seed=seed), 100)
        return [sampler.sample(logits) for _ in range(30)]

    assert draws(7) == draws(7)
    assert draws(7) != draws(8)
    assert draws(None) != draws(None)


@given(full_logits)
def test_greedy_takes_the_lowest_id_of_the_greatest(logits: NDArray[np.float32]) -> None:
    expected = int(np.flatnonzero(logits == logits.max())[0])
    assert Sampler(SamplingSettings(greedy=True), VOCAB).sample(logits) == expected
    assert Sampler(SamplingSettings(temperature=0), VOCAB).sample(logits) == expected


@given(
    st.lists(full_logits, min_size=1, max_size=5),
    st.lists(st.integers(0, VOCAB - 1), max_size=10),
    st.sampled_from([0.5, 1.0, 1.3]),
    st.sampled_from([-1.0, 0.0, 0.75]),
    st.sampled_from([-0.5, 0.0, 0.25]),
)
def test_greedy_after_penalties(
    steps: list[NDArray[np.float32]], prompt: list[int], repetition: float, presence: float, frequency: float
) -> None:
    choice = SamplingSettings(
        greedy=True, repetition_penalty=repetition, presence_penalty=presence, frequency_penalty=frequency
    )
    sampler = Sampler(choice, VOCAB, prompt)
    output: list[int] = []
    for logits in steps:
        before = logits.copy()
        expected = logits.copy()
        for token in range(VOCAB):
            value = logits[token]
            if token in prompt or token in output:
                value = value * np.float32(repetition) if value < 0 else value / np.float32(repetition)
            count = output.count(token)
            expected[token] = value - np.float32(frequency * count + presence * (count > 0))
        output.append(int(np.argmax(expected)))
        assert sampler.sample(logits) == output[-1]
        np.testing.assert_array_equal(logits, before)


def test_repetition_penalty_is_that_of_transformers() -> None:
    torch = pytest.importorskip("torch")
    processors = pytest.importorskip("transformers.generation.logits_process")
    random = np.random.default_rng(5)
    logits = random.normal(size=(1, VOCAB)).astype(np.float32)
    prompt = random.integers(0, VOCAB, 30).tolist()
    penalized = processors.RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([prompt]), torch.tensor(logits.copy()))
    sampler = Sampler(SamplingSettings(repetition_penalty=1.7), VOCAB, prompt)
    np.testing.assert_array_equal(sampler._penalized(logits[0]), penalized[0].numpy())


@pytest.mark.parametrize("fault", [np.nan, np.inf])
def test_logits_that_are_no_numbers_stop_the_run(fault: float) -> None:
    with pytest.raises(RuntimeError, match="not finite"):
        Sampler(SamplingSettings(), 3).sample(np.array([0, fault, 1], np.float32))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", "hot"),
        ("top_k", -1),
        ("top_k", 2.5),
        ("top_k", True),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("min_p", -0.5),
        ("presence_penalty", 3.0),
        ("frequency_penalty", -2.1),
        ("repetition_penalty", 0),
        ("seed", -1),
        ("max_new_tokens", 0),
        ("stop", ""),
        ("stop", ["a", 3]),
        ("greedy", 1),
    ],
)
def test_settings_out_of_range_are_named(name: str, value: object) -> None:
    with pytest.raises(UserError, match=f"^{name} is "):
        SamplingSettings().override({name: value})  # type: ignore[misc]


def test_a_sampling_setting_ends_a_greedy_default() -> None:
    default = SamplingSettings(greedy=True, top_k=20)
    assert default.override({"max_new_tokens": 3}).chooses_greedily
    assert not default.override({"seed": 1}).chooses_greedily
    assert default.override({"seed": 1, "greedy": True}).chooses_greedily
    assert default.override({"temperature": 0.0}).chooses_greedily
    assert default.override({"stop": "\n", "seed": None}) == SamplingSettings(greedy=True, top_k=20, stop=("\n",))
    with pytest.raises(UserError, match="unknown sampling settings: heat"):
        default.override({"heat": 1})  # type: ignore[typeddict-unknown-key]
