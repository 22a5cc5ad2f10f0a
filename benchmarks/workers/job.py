"""What every worker shares: its job comes as one JSON argument, its samples leave as the last line of its output.

Runs in the peers' environments, so it imports the standard library and numpy alone. A job has

- ``measure``: ``prefill``, ``decode``, ``batch`` (as decode, with several sequences) or ``start``;
- ``model``: the converted model's file or folder; ``threads``; ``vocabulary``;
- ``seed``: differs in every process, so that no prompt is met twice (OpenVINO keeps the prefixes it has seen);
- prefill: ``lengths`` in tokens; decode and batch: ``cases``, each [context, batch], and ``steps``, the tokens
  of each sequence;
- ``repeats``: samples of each; start: ``prompt``, a text.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

FIRST_TOKEN = "first token"  # a line of its own, as soon as the first token of a cold process is known


class Prompts:
    """Random token ids from the middle of the vocabulary, where no tokenizer has its special tokens."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._random = np.random.default_rng(job["seed"])
        self._vocabulary = job["vocabulary"]

    def draw(self, length: int, batch: int = 1) -> Any:
        """int64[batch, length]."""
        low, high = self._vocabulary // 10, self._vocabulary * 9 // 10
        return self._random.integers(low, high, (batch, length))


def prefill_sample(tokens: int, seconds: float) -> dict[str, Any]:
    """A prompt of ``tokens`` took ``seconds`` up to its first token."""
    return {"measure": "prefill", "size": tokens, "batch": 1, "tokens": tokens, "seconds": seconds}


def decode_sample(context: int, batch: int, steps: int, seconds: float) -> dict[str, Any]:
    """``batch`` sequences decoded ``steps`` tokens each, after ``context`` positions, in ``seconds``."""
    return {"measure": "decode", "size": context, "batch": batch, "tokens": batch * steps, "seconds": seconds}


def run(measures: dict[str, Callable[[dict[str, Any]], list[dict[str, Any]]]]) -> None:
    """Do the job of the command line and print ``{"samples": [...]}``."""
    job = json.loads(sys.argv[1])
    samples = measures[job["measure"]](job)
    print(json.dumps({"samples": samples}), flush=True)


def tell_first_token() -> None:
    """For ``start``: the parent takes the time when this line comes."""
    print(FIRST_TOKEN, flush=True)
