"""Which tokens are run, in which steps: so that wrong masks, positions, caches and slots show in the logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vamc_py.check.values import Array

DECODED = 2  # tokens of the first sequence behind its prompt
SLOTS = (1, 0)  # of the first and the second sequence


@dataclass(frozen=True)
class Run:
    """Tokens [first, stop) of a sequence."""

    sequence: int
    first: int
    stop: int

    @property
    def positions(self) -> range:
        """Their positions in the sequence."""
        return range(self.first, self.stop)


Call = tuple[Run, ...]  # the runs of one step
Row = tuple[int, int]  # (sequence, position) of a row of logits


@dataclass(frozen=True)
class Scenario:
    """Two sequences of random tokens.

    The first takes a prompt in two pieces, then single tokens; the second starts in the same step as one of those, and
    goes on alone.
    """

    sequences: tuple[Array, Array]  # i64 [length], each below the vocabulary
    calls: tuple[Call, ...]

    def separately(self) -> tuple[Call, ...]:
        """The same with one sequence a step."""
        return tuple((run,) for call in self.calls for run in call)


def make_scenario(vocabulary: int, tokens: int, seed: int = 0) -> Scenario:
    """A prompt of ``tokens`` ≥ 2 tokens, another half as long."""
    random = np.random.default_rng(seed)
    other = max(1, tokens // 2)
    first, second = (random.integers(0, vocabulary, length) for length in (tokens + DECODED, other + 1))
    piece = max(1, 2 * tokens // 3)
    calls: tuple[Call, ...] = (
        (Run(0, 0, piece),),
        (Run(0, piece, tokens + 1),),
        (Run(0, tokens + 1, tokens + 2), Run(1, 0, other)),
        (Run(1, other, other + 1),),
    )
    return Scenario((first, second), calls)


def most_prompt(context: int, prefill: int, wanted: int) -> int:
    """The tokens of the longest prompt, up to ``wanted``, whose scenario has room in a context and a prefill length."""
    return next(
        (
            tokens
            for tokens in range(wanted, 2, -1)
            if tokens + DECODED <= context and most_tokens(make_scenario(2, tokens).calls) <= prefill
        ),
        2,
    )


def rows_of(call: Call) -> Iterator[Row]:
    """The rows of a step, in order."""
    return ((run.sequence, position) for run in call for position in run.positions)


def most_tokens(calls: Sequence[Call]) -> int:
    """The tokens of the largest step."""
    return max(sum(len(run.positions) for run in call) for call in calls)
