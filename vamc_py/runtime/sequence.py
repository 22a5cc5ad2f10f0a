"""Which tokens the KV cache holds of a sequence, so that none is computed twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Feeder(Protocol):
    """The part of the executor that one sequence needs."""

    @property
    def context(self) -> int:
        """Most positions of one sequence."""

    @property
    def vocab_size(self) -> int:
        """Length of the logits."""

    def feed(self, tokens: Sequence[int], *, slot: int, start: int) -> NDArray[np.float32]:
        """Put tokens at positions ``start``, … of a slot; logits f32[vocab] after the last."""


class CachedSequence:
    """One slot of the executor, addressed by the whole sequence instead of by positions.

    Any texts may use it by turns: whatever the cache holds of another text is found out by comparison and overwritten.
    """

    def __init__(self, executor: Feeder, slot: int = 0) -> None:
        self._executor = executor
        self._slot = slot
        self._held: list[int] = []

    @property
    def context(self) -> int:
        """Most tokens a sequence may have."""
        return self._executor.context

    @property
    def vocab_size(self) -> int:
        """Length of the logits."""
        return self._executor.vocab_size

    def reusable(self, tokens: Sequence[int]) -> int:
        """How many of the first tokens need not be computed. The last one always is: its logits are wanted."""
        return min(_common_prefix(self._held, tokens), len(tokens) - 1)

    def logits_after(self, tokens: list[int]) -> NDArray[np.float32]:
        """Logits f32[vocab] after ``tokens`` (one or more, at most ``context``); computes only what the cache lacks."""
        start = self.reusable(tokens)
        # Before the step: one that is interrupted leaves the positions from here on undefined.
        del self._held[start:]
        logits = self._executor.feed(tokens[start:], slot=self._slot, start=start)
        self._held += tokens[start:]
        return logits


def _common_prefix(held: list[int], tokens: Sequence[int]) -> int:
    length = min(len(held), len(tokens))
    if held[:length] == tokens[:length]:  # the usual case while generating, at the speed of C
        return length
    return next(i for i in range(length) if held[i] != tokens[i])
