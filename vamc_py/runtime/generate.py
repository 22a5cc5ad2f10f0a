"""One generation: prefill, then token by token, as a stream of text."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vamc_py.errors import UserError
from vamc_py.runtime.sampler import Sampler
from vamc_py.runtime.sequence import CachedSequence
from vamc_py.runtime.settings import SamplingSettings
from vamc_py.runtime.stops import StopStrings
from vamc_py.runtime.tokenizer import Tokenizer

# "stop": a stop id or stop string; "length": max_new_tokens; "context": no position is left.
FinishReason = Literal["stop", "length", "context"]


@dataclass(frozen=True)
class Timings:
    """Seconds in which the model and the sampler worked; what the reader does between pieces adds nothing to them."""

    prompt_tokens: int
    cached_tokens: int  # of the prompt, found in the KV cache
    prefill_s: float  # up to the first token of the output
    decode_tokens: int  # output tokens after the first
    decode_s: float

    @property
    def prefill_tokens_per_s(self) -> float:
        """Computed prompt tokens each second."""
        return (self.prompt_tokens - self.cached_tokens) / self.prefill_s

    @property
    def decode_tokens_per_s(self) -> float | None:
        """None where the output has one token only."""
        return self.decode_tokens / self.decode_s if self.decode_tokens else None


@dataclass(frozen=True)
class Result:
    """A finished generation. ``output_ids`` includes the stop id that ended it, ``text`` no stop id or string."""

    text: str
    finish_reason: FinishReason
    output_ids: tuple[int, ...]
    timings: Timings


class Generation(Iterator[str]):
    """The output as it comes: iterate over it for the pieces of text, or take ``result()``.

    A piece never ends within a character. Nothing is computed before the first piece is asked for. While a piece is
    made and shown the model computes the next token; that is all that a generation costs which is left half-way.
    Generations that share a sequence may be read by turns.
    """

    def __init__(
        self,
        sequence: CachedSequence,
        tokenizer: Tokenizer,
        prompt: Sequence[int],
        settings: SamplingSettings,
        stop_ids: frozenset[int],
        *,
        random: np.random.Generator | None = None,
        on_finish: Callable[[Result], None] | None = None,
    ) -> None:
        _check_prompt(prompt, sequence)
        self._sequence = sequence
        self._tokenizer = tokenizer
        self._prompt = list(prompt)
        self._settings = settings
        self._stop_ids = stop_ids
        self._random = random
        self._on_finish = on_finish
        self._output: list[int] = []
        self._text = ""
        self._cached_tokens = 0
        self._prefill_s = 0.0
        self._decode_s = 0.0
        self._result: Result | None = None
        self._pieces = self._run()

    def __next__(self) -> str:
        piece = next(self._pieces)
        self._text += piece
        return piece

    @property
    def prompt_tokens(self) -> int:
        """Number of prompt tokens, those in the cache included."""
        return len(self._prompt)

    @property
    def finished(self) -> bool:
        """Whether the last piece was read."""
        return self._result is not None

    def close(self) -> None:
        """Give up the rest of the output."""
        self._pieces.close()

    def result(self) -> Result:
        """Run to the end and return the whole; RuntimeError where the generation was closed before its end."""
        for _ in self:
            pass
        if self._result is None:
            raise RuntimeError("the generation was given up before its end")
        return self._result

    def _run(self) -> Generator[str, None, None]:
        text = self._tokenizer.stream()
        stops = StopStrings(self._settings.stop)
        reason: FinishReason | None = None
        for token, reason_to_end in self._tokens():
            reason = reason_to_end
            piece = "" if token in self._stop_ids else stops.push(text.push(token))
            if piece:
                yield piece
            if stops.found:
                break
        rest = stops.push(text.flush()) + stops.flush()
        if rest:
            yield rest
        if stops.found:
            reason = "stop"
        assert reason is not None
        self._finish(reason)

    def _tokens(self) -> Iterator[tuple[int, FinishReason | None]]:
        """The sampled ids; the last one comes with the reason to end.

        When an id comes, the step for the next one has begun. The clock runs while a step runs and while the sampler
        does, but not between the end of a step and when the next id is asked for.
        """
        tokens = list(self._prompt)
        self._cached_tokens = self._sequence.reusable(tokens)
        begun = time.perf_counter()
        step = _Timed(self._sequence.begin(tokens))
        sampler = Sampler(self._settings, self._sequence.vocab_size, self._prompt, self._random)
        reason: FinishReason | None = None
        while reason is None:
            logits, finished = step.result()
            sampling = time.perf_counter()
            token = sampler.sample(logits)
            tokens.append(token)
            self._output.append(token)
            now = time.perf_counter()
            self._count_time(finished - begun + now - sampling)
            reason, begun = self._reason_to_end(token), now
            if reason is None:
                step = _Timed(self._sequence.begin(tokens))
            yield token, reason

    def _count_time(self, seconds: float) -> None:
        """Of the step and the sampling of the last token."""
        if len(self._output) == 1:
            self._prefill_s = seconds
        else:
            self._decode_s += seconds

    def _reason_to_end(self, token: int) -> FinishReason | None:
        if token in self._stop_ids:
            return "stop"
        if len(self._output) == self._settings.max_new_tokens:
            return "length"
        return "context" if len(self._prompt) + len(self._output) > self._sequence.context else None

    def _finish(self, reason: FinishReason) -> None:
        decoded = len(self._output) - 1
        timings = Timings(len(self._prompt), self._cached_tokens, self._prefill_s, decoded, self._decode_s)
        self._result = Result(self._text, reason, tuple(self._output), timings)
        if self._on_finish is not None:
            self._on_finish(self._result)


class _Timed:
    """A step that was begun, and when it was through."""

    def __init__(self, step: Future[NDArray[np.float32]]) -> None:
        self._step = step
        self._finished: float | None = None
        step.add_done_callback(self._note)

    def _note(self, _step: object) -> None:
        self._finished = time.perf_counter()

    def result(self) -> tuple[NDArray[np.float32], float]:
        """The logits f32[vocab], and when they were there for one who waited."""
        waited = not self._step.done()
        logits = self._step.result()[0]
        return logits, time.perf_counter() if waited or self._finished is None else self._finished


def _check_prompt(prompt: Sequence[int], sequence: CachedSequence) -> None:
    context = sequence.context
    if not prompt:
        raise UserError("the prompt is empty: give at least one token")
    foreign = [token for token in prompt if not 0 <= token < sequence.vocab_size]
    if foreign:
        raise UserError(f"token {foreign[0]} of the prompt is not in the model's vocabulary of {sequence.vocab_size}")
    if len(prompt) > context:
        raise UserError(
            f"the prompt has {len(prompt)} tokens, but the context holds {context}: shorten it, raise --context, "
            "or compile with a longer context in frontend.shape"
        )
