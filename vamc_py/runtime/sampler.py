"""From logits to the next token.

The order is that of Hugging Face: repetition penalty (prompt and output), frequency and presence penalty (output),
temperature, top-k, top-p, min-p, draw. No step sorts the vocabulary: with 151,936 tokens it takes well under 1 ms.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vamc_py.runtime.settings import SamplingSettings

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]
Probabilities = NDArray[np.float64]

_BLOCK = 64  # logits whose maximum stands for all of them in the search for the k greatest
_BUCKETS = 256


class Sampler:
    """Chooses the tokens of one text and remembers them for the penalties.

    ``prompt`` are the ids of the prompt; the repetition penalty counts them, as in Hugging Face. ``random`` is the
    source of random numbers, by default one seeded by ``settings.seed``; one number is drawn for each token.
    """

    def __init__(
        self,
        settings: SamplingSettings,
        vocab_size: int,
        prompt: Sequence[int] = (),
        random: np.random.Generator | None = None,
    ) -> None:
        self._settings = settings
        self._random = random if random is not None else np.random.default_rng(settings.seed)
        self._seen = _TokenCounts(vocab_size, prompt)
        self._output = _TokenCounts(vocab_size, ())

    def sample(self, logits: Floats) -> int:
        """The next token after ``logits`` f32[vocab], which is left as it is.

        Raises RuntimeError where the logits hold NaN or infinity: no text can follow, and the model is at fault.
        """
        logits = self._penalized(logits)
        if not np.isfinite(logits.max()):
            raise RuntimeError("the model computed logits that are not finite")
        token = int(np.argmax(logits)) if self._settings.chooses_greedily else self._draw(logits)
        self._seen.add(token)
        self._output.add(token)
        return token

    def _draw(self, logits: Floats) -> int:
        ids, probabilities = distribution(logits, self._settings)
        mass = np.cumsum(probabilities)
        # Below the whole mass even after rounding, so that a token of probability 0 is never drawn.
        point = min(self._random.random() * mass[-1], np.nextafter(mass[-1], 0))
        return int(ids[np.searchsorted(mass, point, side="right")])

    def _penalized(self, logits: Floats) -> Floats:
        settings = self._settings
        repeated = settings.repetition_penalty != 1
        if not (repeated or settings.frequency_penalty or settings.presence_penalty):
            return logits
        logits = logits.copy()
        if repeated:
            ids = self._seen.ids
            values = logits[ids]
            factor = settings.repetition_penalty
            logits[ids] = np.where(values < 0, values * factor, values / factor)
        ids = self._output.ids
        logits[ids] -= settings.frequency_penalty * self._output.counts(ids) + settings.presence_penalty
        return logits


def distribution(logits: Floats, settings: SamplingSettings) -> tuple[Ids, Probabilities]:
    """The tokens that temperature, top-k, top-p and min-p leave, and their probabilities (float64, sum 1).

    ``logits`` f32[vocab] come after the penalties; their greatest is finite. The tokens that top-p keeps are the
    fewest, most likely ones (of equals the lowest ids) that hold a probability of top_p or more.
    """
    ids = _top_k(logits, settings.top_k)
    scores = logits[ids].astype(np.float64)
    scores -= scores.max()
    with np.errstate(over="ignore"):  # -inf is right for a score that a tiny temperature makes too small to say
        scores /= settings.temperature
    probabilities = np.exp(scores)
    probabilities /= probabilities.sum()
    if settings.top_p < 1:
        kept = _nucleus(scores, probabilities, settings.top_p)
        ids, probabilities = ids[kept], probabilities[kept]
    if settings.min_p > 0:
        kept = np.flatnonzero(probabilities >= settings.min_p * probabilities.max())
        ids, probabilities = ids[kept], probabilities[kept]
    return ids, probabilities / probabilities.sum()


def _top_k(logits: Floats, k: int) -> Ids:
    if k == 0 or k >= logits.size:
        return np.arange(logits.size)
    # The k-th greatest of the blocks' maxima is at most the k-th greatest logit: few tokens reach it.
    maxima = np.maximum.reduceat(logits, np.arange(0, logits.size, _BLOCK))
    ids = np.arange(logits.size)
    if k < maxima.size:
        ids = np.flatnonzero(logits >= _kth_greatest(maxima, k))
    values = logits[ids]
    return ids[values >= _kth_greatest(values, k)]


def _kth_greatest(values: Floats, k: int) -> np.float32:
    place = values.size - k
    kth: np.float32 = np.partition(values, place)[place]
    return kth


def _nucleus(scores: Probabilities, probabilities: Probabilities, top_p: float) -> Ids:
    """Indices of the tokens that top-p keeps, ascending. ``scores`` are log-probabilities, the greatest 0."""
    # Tokens at or below this floor hold 1 - top_p together at most, so the nucleus is among the others.
    likely = np.flatnonzero(probabilities > (1 - top_p) / probabilities.size)
    depths, probabilities = -scores[likely], probabilities[likely]
    # Buckets from likely to unlikely: only the one in which the mass reaches top_p has to be sorted.
    buckets = (depths * (_BUCKETS / max(depths.max(), 1e-9))).astype(np.int64)
    masses = np.cumsum(np.bincount(buckets, weights=probabilities))
    last = min(int(np.searchsorted(masses, top_p)), masses.size - 1)
    members = np.flatnonzero(buckets == last)
    members = members[np.argsort(depths[members], kind="stable")]
    above = masses[last - 1] if last else 0.0
    wanted = np.searchsorted(above + np.cumsum(probabilities[members]), top_p) + 1
    kept = buckets < last
    kept[members[:wanted]] = True
    ids: Ids = likely[kept]
    return ids


class _TokenCounts:
    """How often each token came, and which came at all, without a pass over the vocabulary."""

    def __init__(self, vocab_size: int, tokens: Sequence[int]) -> None:
        self._counts = np.bincount(np.asarray(tokens, np.int64), minlength=vocab_size)
        self._ids = np.empty(vocab_size, np.int64)
        present = np.flatnonzero(self._counts)
        self._used = present.size
        self._ids[: self._used] = present

    def add(self, token: int) -> None:
        if self._counts[token] == 0:
            self._ids[self._used] = token
            self._used += 1
        self._counts[token] += 1

    @property
    def ids(self) -> Ids:
        return self._ids[: self._used]

    def counts(self, ids: Ids) -> Floats:
        return self._counts[ids].astype(np.float32)
