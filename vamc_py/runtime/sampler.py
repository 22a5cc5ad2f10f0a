"""From logits to the next token.

The order is that of Hugging Face: repetition penalty (prompt and output), frequency and presence penalty (output),
temperature, top-k, top-p, min-p, draw. No step sorts the vocabulary: with 151,936 tokens it takes well under 1 ms.
The next step of the model waits for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vamc_py.runtime.settings import SamplingSettings

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]
Probabilities = NDArray[np.float64]

_BLOCK = (
    64  # logits whose maximum stands for all of them in the search for the k greatest; weights that are summed first
)
_ONE = int(np.float64(1).view(np.int64))  # bits of floats that are not negative are ordered as the floats are
_FINER_BITS = 45  # below the exponent and 7 bits of the fraction: weights of one bucket differ by less than 1 %
_SLACK = 1e-5  # of logits in float32, below which min-p is decided in float64


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
        self._scratch: Probabilities | None = None  # pages that are new for each token would take longer than the sums

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
        if self._scratch is None:
            self._scratch = np.empty(logits.size)
        ids, weights = _weighted(logits, self._settings, self._scratch)
        index = _drawn(weights, self._random.random())
        return index if ids is None else int(ids[index])

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
    """The tokens that temperature, top-k, top-p and min-p leave, ascending, and their probabilities (float64, sum 1).

    ``logits`` f32[vocab] come after the penalties; their greatest is finite. The tokens that top-p keeps are the
    fewest, most likely ones (of equals the lowest ids) that hold a probability of top_p or more.
    """
    ids, weights = _weighted(logits, settings, np.empty(logits.size))
    return np.arange(logits.size) if ids is None else ids, weights / weights.sum()


def _weighted(logits: Floats, settings: SamplingSettings, scratch: Probabilities) -> tuple[Ids | None, Probabilities]:
    """The ids (None: all) and their probabilities relative to the greatest; these may lie in ``scratch`` f64[vocab]."""
    greatest = float(logits.max())
    ids = _candidates(logits, greatest, settings)
    logits = logits if ids is None else logits[ids]
    weights = np.subtract(logits, greatest, out=scratch[: logits.size], dtype=np.float64)
    if settings.temperature != 1:
        with np.errstate(over="ignore"):  # -inf is right for a score that a tiny temperature makes too small to say
            weights /= settings.temperature
    np.exp(weights, out=weights)
    kept: Ids | None = None
    if settings.top_p < 1:
        kept = _nucleus(weights, settings.top_p * float(weights.sum()))
        weights = weights[kept]
    if settings.min_p > 0:
        likely = np.flatnonzero(weights >= settings.min_p)
        kept, weights = likely if kept is None else kept[likely], weights[likely]
    return kept if ids is None else ids if kept is None else ids[kept], weights


def _candidates(logits: Floats, greatest: float, settings: SamplingSettings) -> Ids | None:
    """Ids of tokens among which all are that the settings keep, ascending; None for all tokens."""
    if 0 < settings.top_k < logits.size:
        return _top_k(logits, settings.top_k)
    if settings.min_p > 0 and settings.top_p == 1:
        least = greatest + settings.temperature * math.log(settings.min_p)
        return np.flatnonzero(logits >= np.float32(least - _SLACK * max(abs(least), 1)))
    return None


def _top_k(logits: Floats, k: int) -> Ids:
    """The k greatest, and those that tie with the k-th."""
    # Block i holds the logits i, i + count, i + 2 * count, ... The k-th greatest of the blocks' maxima is at most the
    # k-th greatest logit: the k greatest are in blocks that reach it, and in what is left over at the end.
    count = logits.size // _BLOCK
    blocks = logits[: count * _BLOCK].reshape(_BLOCK, count)
    ids = np.arange(logits.size)
    if k < count:
        maxima = blocks.max(axis=0)
        reach = np.flatnonzero(maxima >= _kth_greatest(maxima, k))
        ids = np.concatenate([(ids[:_BLOCK, None] * count + reach).ravel(), ids[count * _BLOCK :]])
    values = logits[ids]
    return ids[values >= _kth_greatest(values, k)]


def _kth_greatest(values: Floats, k: int) -> np.float32:
    place = values.size - k
    kth: np.float32 = np.partition(values, place)[place]
    return kth


def _nucleus(weights: Probabilities, mass: float) -> Ids:
    """Indices, ascending, of the fewest and greatest weights that sum to ``mass`` or more; of equals the lowest.

    Weights are from 0 to 1.
    """
    # Weights at or below this floor sum to less than what may be left out.
    likely = np.flatnonzero(weights > max(weights.sum() - mass, 0) / weights.size)
    weights = weights[likely]
    # Buckets from great to small, by the leading bits: only the one in which the mass is reached has to be sorted.
    buckets = (_ONE - weights.view(np.int64)) >> _FINER_BITS
    masses = np.cumsum(np.bincount(buckets, weights=weights))
    last = min(int(np.searchsorted(masses, mass)), masses.size - 1)
    members = np.flatnonzero(buckets == last)
    members = members[np.argsort(-weights[members], kind="stable")]
    above = masses[last - 1] if last else 0.0
    wanted = np.searchsorted(above + np.cumsum(weights[members]), mass) + 1
    kept = buckets < last
    kept[members[:wanted]] = True
    ids: Ids = likely[kept]
    return ids


def _drawn(weights: Probabilities, number: float) -> int:
    """The index that ``number`` in [0, 1) chooses: each has a share of the numbers in proportion to its weight."""
    starts = np.arange(0, weights.size, _BLOCK)
    masses = np.cumsum(np.add.reduceat(weights, starts))
    # Below the whole mass even after rounding, so that a token of probability 0 is never drawn.
    point = min(number * masses[-1], np.nextafter(masses[-1], 0))
    block = int(np.searchsorted(masses, point, side="right"))
    first = block * _BLOCK
    inside = np.cumsum(weights[first : first + _BLOCK])
    point -= masses[block - 1] if block else 0.0
    # The block's last weight that counts, where the sums were rounded differently.
    last = int(np.searchsorted(inside, inside[-1]))
    return first + min(int(np.searchsorted(inside, point, side="right")), last)


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
