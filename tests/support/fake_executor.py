"""Stands in for the executor: logits depend on every token that the cache holds, so that a wrong reuse shows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray

Choice = Callable[[list[int]], int]


class FakeExecutor:
    """A random but reproducible model. ``choose`` maps the history to the token that is made most likely."""

    def __init__(self, vocab_size: int, context: int = 512, slots: int = 1, choose: Choice | None = None) -> None:
        self.vocab_size = vocab_size
        self.context = context
        self.slots = slots
        self.computed = 0  # tokens fed so far
        self._choose = choose
        self._cache = np.full((slots, context), -1, np.int64)

    def begin_feed(self, tokens: Sequence[int], *, slot: int, start: int) -> Future[NDArray[np.float32]]:
        """A step that is through at once."""
        step: Future[NDArray[np.float32]] = Future()
        try:
            step.set_result(self.feed(tokens, slot=slot, start=start)[None])
        except BaseException as error:
            step.set_exception(error)
        return step

    def feed(self, tokens: Sequence[int], *, slot: int, start: int) -> NDArray[np.float32]:
        end = start + len(tokens)
        assert len(tokens) >= 1, "nothing to feed"
        assert end <= self.context, "past the context"
        assert (self._cache[slot, :start] >= 0).all(), "reads positions that were never written"
        self._cache[slot, start:end] = tokens
        self.computed += len(tokens)
        return self._logits(self._cache[slot, :end])

    def _logits(self, history: NDArray[np.int64]) -> NDArray[np.float32]:
        seed = int.from_bytes(hashlib.blake2b(history.tobytes(), digest_size=8).digest(), "little")
        logits = np.random.default_rng(seed).normal(scale=3, size=self.vocab_size).astype(np.float32)
        if self._choose is not None:
            logits[self._choose(history.tolist())] = 40
        return logits


def script(output: Sequence[int], prompt_length: int) -> Choice:
    """A model that says ``output`` after a prompt of that length, whatever the prompt."""
    return lambda history: output[len(history) - prompt_length]
