"""Models beside a reference on the same windows of a text: perplexity, next-token agreement, KL divergence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from vamc_py.errors import UserError
from vamc_py.progress import track
from vamc_py.runtime.executor import Executor, Logits
from vamc_py.runtime.perplexity import ROWS_IN_DOUBLE, SCORED_ROWS, Tokens, scored_logits

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Divergence:
    """How far a model's next tokens are from the reference's, over all scored positions."""

    agreement: float  # share of the positions at which both have the same most likely token
    kl_mean: float  # mean of KL(reference || model), nats a token
    kl_p99: float  # its 99th percentile


@dataclass(frozen=True)
class Figures:
    """A model on a text."""

    ppl: float  # exp of the mean negative log-likelihood in nats, as ``vamc-py ppl`` counts it
    tokens: int  # scored
    divergence: Divergence | None = None  # None without a reference


@dataclass
class _Tally:
    """What is kept of each scored position: three numbers."""

    losses: list[Doubles] = field(default_factory=list)
    same: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    divergences: list[Doubles] = field(default_factory=list)

    def figures(self) -> Figures:
        losses = np.concatenate(self.losses)
        divergence = None
        if self.same:
            kl = np.concatenate(self.divergences)
            same = np.concatenate(self.same)
            divergence = Divergence(float(same.mean()), float(kl.mean()), float(np.percentile(kl, 99)))
        with np.errstate(over="ignore"):
            return Figures(float(np.exp(losses.mean())), len(losses), divergence)


def compare(executors: Sequence[Executor], windows: Sequence[Tokens], *, reference: bool) -> list[Figures]:
    """The figures of each executor, in order; with ``reference`` the first one is what the others are compared to.

    Every window goes through all of them in turn, and what is computed of it in pieces of at most SCORED_ROWS
    positions, so that no more logits than those are in memory. Which positions are scored: ``runtime.perplexity``.
    Raises UserError for executors whose vocabularies have different sizes.
    """
    sizes = [executor.vocab_size for executor in executors]
    if len(set(sizes)) > 1:
        raise UserError(f"vocabularies of {' and '.join(map(str, sizes))} tokens: only like models can be compared")
    rows = min(SCORED_ROWS, *(executor.manifest.limits.prefill for executor in executors))
    tallies = [_Tally() for _ in executors]
    for window in track(windows, "windows"):
        for logits, targets in _pieces(executors, window, rows):
            for begin in range(0, len(targets), ROWS_IN_DOUBLE):
                part = slice(begin, begin + ROWS_IN_DOUBLE)
                _add(tallies, [each[part] for each in logits], targets[part], reference=reference)
    return [tally.figures() for tally in tallies]


def _pieces(executors: Sequence[Executor], window: Tokens, rows: int) -> Iterator[tuple[tuple[Logits, ...], Tokens]]:
    """The logits of all executors at the same positions, and the tokens that follow there."""
    begin = len(window) // 2 + 1
    for logits in zip(*(scored_logits(executor, window, rows) for executor in executors), strict=True):
        yield logits, window[begin : begin + len(logits[0])]
        begin += len(logits[0])


def _add(tallies: Sequence[_Tally], logits: Sequence[Logits], targets: Tokens, *, reference: bool) -> None:
    wanted: Doubles | None = None
    for tally, each in zip(tallies, logits, strict=True):
        likelihoods = log_softmax(each)
        tally.losses.append(-likelihoods[np.arange(len(targets)), targets])
        if wanted is not None:
            tally.divergences.append(kl_divergence(wanted, likelihoods))
            tally.same.append(wanted.argmax(axis=1) == likelihoods.argmax(axis=1))
        elif reference:
            wanted = likelihoods


def log_softmax(logits: npt.NDArray[np.floating]) -> Doubles:
    """log softmax of each row of logits [m, vocab], in float64."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(axis=1, keepdims=True))
    return wide


def kl_divergence(reference: Doubles, other: Doubles) -> Doubles:
    """sum p (log p - log q) of each row, in nats, p and q given as log-likelihoods [m, vocab]; not below 0."""
    total: Doubles = (np.exp(reference) * (reference - other)).sum(axis=1)
    return np.maximum(total, 0.0)  # rounding can leave -1e-17
