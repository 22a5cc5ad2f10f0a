"""The benchmark: how fast an artifact prefills and decodes here, and how near that comes to the machine's limits."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vamc_py.artifact.cpu import cpu_name
from vamc_py.artifact.verify import read_manifest
from vamc_py.errors import UserError
from vamc_py.progress import track
from vamc_py.runtime.executor import Executor
from vamc_py.runtime.limits import MatrixLimit, ReadLimit, decode_work, matrix_kind, matrix_kinds, prefill_work

_SEED = 0


@dataclass(frozen=True)
class Settings:
    """What to measure, in tokens."""

    prefill: int  # length of the prompt
    decode: int  # tokens decoded one at a time
    context: int  # positions in the cache before the first of them
    repeats: int

    def check(self, limit: int) -> None:
        """UserError unless the artifact's context ``limit`` and each other allow these settings."""
        for name in ("prefill", "decode", "context", "repeats"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)}: at least 1 is wanted")
        if self.positions() > limit:
            raise UserError(
                f"--prefill {self.prefill}, --context {self.context} + --decode {self.decode}: "
                f"the artifact's context is {limit}; choose shorter ones"
            )

    def positions(self) -> int:
        """Positions of the one sequence that is measured."""
        return max(self.prefill, self.context + self.decode)


@dataclass
class Sample:
    """One round: seconds of the work, and the machine's limits measured around it."""

    prefill_seconds: float
    decode_seconds: float
    read: float  # bytes/s
    matrix: dict[str, float]  # operations/s by kind


def bench(folder: Path, settings: Settings, *, threads: int | None = None) -> dict[str, Any]:
    """Measure the artifact in ``folder``.

    Each round measures the read bandwidth, a decode, the matrix peaks and a prefill, in turn, so that work and limit
    see the same machine; the figures are medians over the rounds. Tokens are random, from a fixed seed.

    Returns ``{"prefill": {"tokens", "tokens_per_s", "share_of_limit"}, "decode": {"context", "tokens_per_s",
    "share_of_limit"}, "machine": {"cpu", "threads", "read_gb_s", "int8_gops", "fp32_gops"}}``, and
    "bf16_gops" of the machine where the artifact has such products. A share of the limit is the least time that the
    work can take divided by the time it took: for decode the bytes it must read at the read bandwidth
    (``limits.decode_work``), for prefill its operations (``limits.prefill_work``) at the matrix peak of the build's
    arithmetic (``limits.matrix_kind``).
    """
    settings.check(read_manifest(folder).limits.context)
    executor = Executor.load(folder, context=settings.positions(), threads=threads)
    rounds = Rounds(executor, settings)
    samples = [rounds.sample() for _ in track(range(settings.repeats), "rounds")]
    return report(executor, settings, samples)


class Rounds:
    """Measures round after round on one executor."""

    def __init__(self, executor: Executor, settings: Settings) -> None:
        self._executor = executor
        self._settings = settings
        random = np.random.default_rng(_SEED)
        self._tokens: npt.NDArray[np.int64] = random.integers(0, executor.vocab_size, settings.positions())
        self._read = ReadLimit(executor)
        kinds = matrix_kinds(executor.manifest.target.features)
        self._matrix = {kind: MatrixLimit(executor, kind) for kind in kinds}
        self._prefill()  # not measured: maps the parameters' pages and gives the caches theirs
        self._decode()
        self._read.measure()

    def sample(self) -> Sample:
        """One round."""
        read = self._read.measure()
        decode_seconds = self._decode()
        matrix = {kind: limit.measure() for kind, limit in self._matrix.items()}
        return Sample(prefill_seconds=self._prefill(), decode_seconds=decode_seconds, read=read, matrix=matrix)

    def _prefill(self) -> float:
        start = time.perf_counter()
        self._executor.feed(self._tokens[: self._settings.prefill], slot=0, start=0)
        return time.perf_counter() - start

    def _decode(self) -> float:
        context = self._settings.context
        self._executor.feed(self._tokens[:context], slot=0, start=0)
        start = time.perf_counter()
        for position in range(context, context + self._settings.decode):
            self._executor.step(self._tokens[position : position + 1], [position], [0], [0])
        return time.perf_counter() - start


def report(executor: Executor, settings: Settings, samples: list[Sample]) -> dict[str, Any]:
    """The medians over ``samples``, in the form that ``bench`` returns."""
    manifest = executor.manifest
    operations = prefill_work(manifest, settings.prefill).operations
    read = decode_work(manifest, settings.context, settings.decode).read
    kind = matrix_kind(manifest, settings.prefill)
    median = statistics.median
    return {
        "prefill": {
            "tokens": settings.prefill,
            "tokens_per_s": median(settings.prefill / sample.prefill_seconds for sample in samples),
            "share_of_limit": median(operations / sample.matrix[kind] / sample.prefill_seconds for sample in samples),
        },
        "decode": {
            "context": settings.context,
            "tokens_per_s": median(settings.decode / sample.decode_seconds for sample in samples),
            "share_of_limit": median(read / sample.read / sample.decode_seconds for sample in samples),
        },
        "machine": {
            "cpu": cpu_name(),
            "threads": executor.compute.threads,
            "read_gb_s": median(sample.read for sample in samples) / 1e9,
            **{f"{kind}_gops": median(sample.matrix[kind] for sample in samples) / 1e9 for kind in samples[0].matrix},
        },
    }
