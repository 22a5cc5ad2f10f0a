"""Perplexity of an artifact on a text, counted as llama.cpp counts it, so that figures compare."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import tokenizers

from vamc_py.artifact.manifest import TOKENIZER_DIR, ManifestBase
from vamc_py.errors import ArtifactError, UserError
from vamc_py.progress import track
from vamc_py.runtime.batch import Integers

SCORED_ROWS = 64  # logits of so many tokens at a time: at a vocabulary of 152,000 they take 39 MB
ROWS_IN_DOUBLE = 16  # rows widened to float64 at a time

Tokens = npt.NDArray[np.int64]


class Stepper(Protocol):
    """The part of an executor that scoring a text needs."""

    @property
    def manifest(self) -> ManifestBase:
        """Of the artifact; ``limits.prefill`` is how many tokens a step takes at most."""

    def step(self, tokens: Integers, positions: Integers, slots: Integers, rows: Integers) -> npt.NDArray[np.float32]:
        """The logits [m, vocab] of the tokens at the indices ``rows``; see ``executor.Executor.step``."""


@dataclass(frozen=True)
class Perplexity:
    """``ppl``: exp of the mean negative log-likelihood in nats; ``tokens``: how many tokens were scored."""

    ppl: float
    tokens: int


def tokenize(folder: Path, text: Path) -> Tokens:
    """The ids of a whole UTF-8 file. No special tokens are added, and their names in the text are plain text."""
    try:
        content = text.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{text}: cannot be read as UTF-8 text ({error})") from error
    return np.asarray(read_tokenizer(folder).encode(content, add_special_tokens=False).ids, dtype=np.int64)


def read_tokenizer(folder: Path) -> tokenizers.Tokenizer:
    """The tokenizer of an artifact, without limits of length; the names of special tokens are plain text to it."""
    path = folder / TOKENIZER_DIR / "tokenizer.json"
    if not path.is_file():
        raise ArtifactError(f"{path}: the file is missing; copy or compile the artifact again")
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise ArtifactError(f"{path}: cannot be read as a tokenizer ({error}); compile the artifact again") from error
    tokenizer.no_truncation()  # a file may carry the length limit of a training run
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def windows(tokens: Tokens, context: int, chunks: int | None) -> list[Tokens]:
    """The first ``chunks`` (None: all) whole windows of ``context`` tokens, one after the other; a rest is left out."""
    if context < 4:
        raise UserError(f"a context of {context}: at least 4 tokens are wanted, of which the second half is scored")
    count = len(tokens) // context
    if count == 0:
        raise UserError(f"the text has {len(tokens)} tokens, too few for one window of {context}; give a longer text")
    if chunks is not None and not 1 <= chunks <= count:
        raise UserError(f"{chunks} chunks: the text has 1 to {count} windows of {context} tokens")
    return [tokens[index * context : (index + 1) * context] for index in range(chunks or count)]


def perplexity(executor: Stepper, windows: list[Tokens]) -> Perplexity:
    """Perplexity over windows of equal length C, each fed from position 0 on.

    Of each window the logits at positions C // 2 up to and including C - 2 are scored, each against the token at the
    next position: C - 1 - C // 2 tokens a window.
    """
    total, count = 0.0, 0
    for window in track(windows, "windows"):
        scores = np.concatenate(list(_window_scores(executor, window)))
        total += float(scores.sum())
        count += len(scores)
    return Perplexity(ppl=math.exp(total / count), tokens=count)


def _window_scores(executor: Stepper, window: Tokens) -> Iterator[npt.NDArray[np.float64]]:
    """Negative log-likelihoods of a window's scored tokens, in pieces."""
    begin = len(window) // 2 + 1
    for logits in scored_logits(executor, window):
        yield negative_log_likelihood(logits, window[begin : begin + len(logits)])
        begin += len(logits)


def scored_logits(executor: Stepper, window: Tokens, rows: int = SCORED_ROWS) -> Iterator[npt.NDArray[np.float32]]:
    """The logits of a window's scored tokens in order, in pieces of ``rows`` or, if that is less, the prefill limit."""
    first, end = len(window) // 2, len(window) - 1
    limit = executor.manifest.limits.prefill
    for begin in range(0, first, limit):
        _step(executor, window, begin, min(begin + limit, first), scored=False)
    limit = min(limit, rows)
    for begin in range(first, end, limit):
        yield _step(executor, window, begin, min(begin + limit, end), scored=True)


def _step(executor: Stepper, window: Tokens, begin: int, stop: int, *, scored: bool) -> npt.NDArray[np.float32]:
    count = stop - begin
    rows = np.arange(count if scored else 0)
    return executor.step(window[begin:stop], np.arange(begin, stop), np.zeros(count, np.int64), rows)


def negative_log_likelihood(logits: npt.NDArray[np.float32], targets: Tokens) -> npt.NDArray[np.float64]:
    """-log softmax(logits)[target] for each row of logits [m, vocab] and each of m targets, computed in float64."""
    scores = np.empty(len(targets))
    for begin in range(0, len(targets), ROWS_IN_DOUBLE):
        rows = logits[begin : begin + ROWS_IN_DOUBLE].astype(np.float64)
        chosen = rows[np.arange(len(rows)), targets[begin : begin + len(rows)]]
        peak = rows.max(axis=1)
        scores[begin : begin + len(rows)] = np.log(np.exp(rows - peak[:, None]).sum(axis=1)) + peak - chosen
    return scores
