"""Which tokens the KV cache holds of a sequence, so that none is computed twice."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, wait
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

    def begin_feed(self, tokens: Sequence[int], *, slot: int, start: int) -> Future[NDArray[np.float32]]:
        """Start to put tokens at positions ``start``, … of a slot; the result is the logits f32[1, vocab] of the last.

        The next call waits for it, whether its result was taken or not.
        """


class CachedSequence:
    """One slot of the executor, addressed by the whole sequence instead of by positions.

    Any texts may use it by turns: whatever the cache holds of another text is found out by comparison and overwritten.
    """

    def __init__(self, executor: Feeder, slot: int = 0) -> None:
        self._executor = executor
        self._slot = slot
        self._held: list[int] = []  # what the cache holds, or will hold when the step that was begun is through
        self._source: list[int] = []  # the list whose beginning it is
        self._begun: tuple[Future[NDArray[np.float32]], int] | None = None  # that step and its first position

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
        self._settle()
        known = tokens is self._source and len(self._held) <= len(tokens)
        return min(len(self._held) if known else _common_prefix(self._held, tokens), len(tokens) - 1)

    def begin(self, tokens: list[int]) -> Future[NDArray[np.float32]]:
        """Start computing the logits f32[1, vocab] after ``tokens`` (one or more, at most ``context``).

        Only what the cache lacks is computed. It goes on whether the result is taken or not. A list that was given
        before may have grown since, but not changed: its beginning is not compared again.
        """
        start = self.reusable(tokens)
        del self._held[start:]  # before the step: one that fails leaves the positions from here on undefined
        step = self._executor.begin_feed(tokens[start:], slot=self._slot, start=start)
        self._begun = (step, start)
        self._held += tokens[start:]
        self._source = tokens
        return step

    def _settle(self) -> None:
        """Wait for the step that was begun, and forget what it was to write if it failed."""
        if self._begun is None:
            return
        step, start = self._begun
        wait([step])
        if step.cancelled() or step.exception() is not None:
            del self._held[start:]
        self._begun = None


def _common_prefix(held: list[int], tokens: Sequence[int]) -> int:
    length = min(len(held), len(tokens))
    if held[:length] == tokens[:length]:  # the usual case while generating, at the speed of C
        return length
    return next(i for i in range(length) if held[i] != tokens[i])
