"""Medians, ratios and shares of the benchmark."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.benchmark_results import BROKEN, MODEL, OURS, PEER, SHAPE, prefill, process, sample_results

from benchmarks.figures import Case, Figures
from benchmarks.results import MachineLimits, Results

PREFILL, DECODE, FOUR = Case("prefill", 64), Case("decode", 16), Case("decode", 16, 4)


@pytest.fixture
def figures() -> Figures:
    return Figures(sample_results(), MODEL)


def test_a_round_counts_with_its_median(figures: Figures) -> None:
    assert figures.rates(OURS, PREFILL) == pytest.approx({0: 1000.0, 1: 1200.0})


def test_the_rate_is_the_median_of_the_rounds(figures: Figures) -> None:
    assert figures.rate(OURS, PREFILL) == pytest.approx(1100.0)
    assert figures.rate(BROKEN, PREFILL) is None
    assert figures.rate(PEER, FOUR) is None


def test_a_ratio_is_taken_round_by_round(figures: Figures) -> None:
    assert figures.ratio(OURS, PEER, PREFILL) == pytest.approx(statistics.median([2.0, 3.0]))
    assert figures.ratio(OURS, PEER, FOUR) is None


@given(st.lists(st.tuples(*[st.floats(1, 1e6)] * 2), min_size=1, max_size=7))
def test_a_ratio_and_its_inverse_belong_together(rates: list[tuple[float, float]]) -> None:
    results = Results(models={MODEL: SHAPE})
    for round_, pair in enumerate(rates):
        for engine, rate in zip((OURS, PEER), pair, strict=True):
            results.processes.append(process(round_, engine, "prefill", [prefill(64, rate)]))
    figures = Figures(results, MODEL)
    there, back = figures.ratio(OURS, PEER, PREFILL), figures.ratio(PEER, OURS, PREFILL)
    assert there is not None
    assert back is not None
    quotients = [ours / theirs for ours, theirs in rates]
    assert min(quotients) <= there * (1 + 1e-9)
    assert there <= max(quotients) * (1 + 1e-9)
    if len(rates) % 2:
        assert there * back == pytest.approx(1)


def test_decoding_alone_and_together_are_not_mixed(figures: Figures) -> None:
    assert figures.rate(OURS, DECODE) == pytest.approx(11.0)
    assert figures.rate(OURS, FOUR) == pytest.approx(30.0)


def test_cases_come_prompts_first(figures: Figures) -> None:
    assert figures.cases() == [PREFILL, DECODE, Case("decode", 32), FOUR]


def test_a_limit_is_memory_or_arithmetic_whichever_is_slower(figures: Figures) -> None:
    work = SHAPE.decode(16, 1, 4)
    assert figures.limit_rates(DECODE) == pytest.approx(dict.fromkeys((0, 1), 4 / (work.read / 2e6)))
    work = SHAPE.prefill(64)
    assert work.operations / 1e9 < work.read / 2e6
    figures.results.limits = [MachineLimits(0, MODEL, "prefill", {"read": [1e12], "int8": [1e6]})]
    assert figures.limit_rates(PREFILL) == pytest.approx({0: 64 / (work.operations / 1e6)})


def test_a_share_is_of_the_limit_of_its_round(figures: Figures) -> None:
    limits = figures.limit_rates(DECODE)
    assert figures.share(OURS, DECODE) == pytest.approx(statistics.median([10 / limits[0], 12 / limits[1]]))
    figures.results.limits.clear()
    assert figures.share(OURS, DECODE) is None


def test_a_peak_that_was_not_measured_gives_no_share(figures: Figures) -> None:
    assert figures.share(OURS, PREFILL, "bf16") is not None
    assert figures.share(OURS, FOUR, "bf16") is None
    assert figures.limit_rates(FOUR, "bf16") == {}


def test_several_sequences_against_one(figures: Figures) -> None:
    assert figures.scaling(OURS, FOUR) == pytest.approx(30.0 / 10.0)  # the second round has no four
    assert figures.scaling(PEER, FOUR) is None


def test_start_and_memory(figures: Figures) -> None:
    assert figures.first_token(OURS) == pytest.approx(1.1)
    assert figures.first_token(BROKEN) is None
    assert figures.memory(OURS, "prefill") == (100e6, 50e6)
    assert figures.memory(BROKEN, "prefill") is None


def test_engines_keep_their_order_and_the_broken_one(figures: Figures) -> None:
    assert figures.engines() == [OURS, PEER, BROKEN]
    assert figures.rounds() == 2
