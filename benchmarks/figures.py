"""From raw samples to figures: medians over rounds, ratios round by round, shares of the machine's limits."""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass

from benchmarks.results import Results
from benchmarks.shape import ModelShape, Work


@dataclass(frozen=True, order=True)
class Case:
    """What was measured: a prompt of ``size`` tokens, or ``batch`` sequences that decode after ``size`` tokens."""

    measure: str  # "prefill" or "decode"
    size: int
    batch: int = 1

    def work(self, shape: ModelShape, tokens: int) -> Work:
        """The least that a sample of ``tokens`` tokens needs."""
        if self.measure == "prefill":
            return shape.prefill(self.size)
        return shape.decode(self.size, self.batch, tokens // self.batch)


@dataclass(frozen=True)
class Figures:
    """The results of one model."""

    results: Results
    model: str

    @property
    def shape(self) -> ModelShape:
        """The model's shape."""
        return self.results.models[self.model]

    def engines(self) -> list[str]:
        """The engines that have measured this model or failed to, in the order in which they were set up."""
        named = {one.engine for one in self.results.processes if one.model == self.model}
        named |= {one.engine for one in self.results.failures if one.model in ("", self.model)}
        return [name for name in self.results.engines if name in named]

    def cases(self) -> list[Case]:
        """All cases that some engine has measured: prompts, one sequence, several."""
        samples = (sample for one in self.results.processes if one.model == self.model for sample in one.samples)
        found = {Case(sample.measure, sample.size, sample.batch) for sample in samples}
        return sorted(found, key=lambda case: (case.measure != "prefill", case.batch, case.size))

    def rounds(self) -> int:
        """How many rounds were measured."""
        return len({one.round for one in self.results.processes if one.model == self.model})

    def rates(self, engine: str, case: Case) -> dict[int, float]:
        """Tokens a second by round: the median of the round's samples."""
        return {round_: statistics.median(rates) for round_, rates in self._samples(engine, case).items()}

    def rate(self, engine: str, case: Case) -> float | None:
        """The median over the rounds; None where the engine has no sample."""
        return _median(self.rates(engine, case))

    def ratio(self, engine: str, other: str, case: Case) -> float | None:
        """How many times as fast as ``other`` an engine is: the median of the rounds in which both were measured."""
        ours, theirs = self.rates(engine, case), self.rates(other, case)
        return _median({round_: ours[round_] / theirs[round_] for round_ in ours.keys() & theirs.keys()})

    def share(self, engine: str, case: Case, peak: str = "int8") -> float | None:
        """The median over the rounds of the rate divided by the limit of that round (see ``limit_rates``)."""
        limits = self.limit_rates(case, peak)
        rates = self.rates(engine, case)
        return _median({round_: rates[round_] / limits[round_] for round_ in rates.keys() & limits.keys()})

    def scaling(self, engine: str, case: Case) -> float | None:
        """How many times the tokens/s of one sequence several have together: the median of the rounds with both."""
        many, one = self.rates(engine, case), self.rates(engine, Case(case.measure, case.size))
        return _median({round_: many[round_] / one[round_] for round_ in many.keys() & one.keys()})

    def limit_rates(self, case: Case, peak: str = "int8") -> dict[int, float]:
        """Tokens a second that the machine allows, by round: memory or the matrix ``peak``, whichever is slower.

        Empty where that peak was not measured: not every CPU has bf16 products.
        """
        tokens = self._tokens(case)
        work = case.work(self.shape, tokens)
        return {
            round_: tokens / max(work.read / limit["read"], work.operations / limit[peak])
            for round_, limit in self.machine_limits(_measure(case)).items()
            if peak in limit
        }

    def machine_limits(self, measure: str) -> dict[int, dict[str, float]]:
        """By round, what was measured just before a measure's engines: the medians of the passes."""
        return {
            one.round: {name: statistics.median(values) for name, values in one.passes.items()}
            for one in self.results.limits
            if (one.model, one.measure) == (self.model, measure)
        }

    def first_token(self, engine: str) -> float | None:
        """Seconds from the start of a cold process to its first token."""
        times = {one.round: one.first_token for one in self.results.processes_of(self.model, engine, "start")}
        return _median({round_: seconds for round_, seconds in times.items() if seconds is not None})

    def memory(self, engine: str, measure: str) -> tuple[float, float] | None:
        """Peaks of anonymous and of file-mapped memory in bytes, as medians over the rounds."""
        found = list(self.results.processes_of(self.model, engine, measure))
        if not found:
            return None
        return statistics.median(one.anonymous for one in found), statistics.median(one.file for one in found)

    def _samples(self, engine: str, case: Case) -> dict[int, list[float]]:
        found: dict[int, list[float]] = defaultdict(list)
        for process in self.results.processes_of(self.model, engine, _measure(case)):
            for sample in process.samples:
                if Case(sample.measure, sample.size, sample.batch) == case:
                    found[process.round].append(sample.tokens / sample.seconds)
        return found

    def _tokens(self, case: Case) -> int:
        """Tokens of a sample of this case; all engines are given the same."""
        samples = (sample for one in self.results.processes if one.model == self.model for sample in one.samples)
        return next(one.tokens for one in samples if Case(one.measure, one.size, one.batch) == case)


def _measure(case: Case) -> str:
    """The measure whose processes hold a case."""
    return "batch" if case.batch > 1 else case.measure


def _median(values: dict[int, float]) -> float | None:
    return statistics.median(values.values()) if values else None
