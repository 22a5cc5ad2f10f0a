"""One decode step and one prefill step of an artifact by kernel: time, work, and share of the machine's limit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vamc_py.artifact.manifest import Manifest
from vamc_py.artifact.verify import read_manifest
from vamc_py.errors import UserError
from vamc_py.inspect.costs import StepSize
from vamc_py.inspect.dump import open_dump
from vamc_py.inspect.final_graph import FinalGraph, final_graph
from vamc_py.inspect.measure import DECODE_SLOT, DECODE_STEPS, PREFILL_SLOT, SEED, KernelTimes, Limits, TimedExecutor
from vamc_py.inspect.report_model import MachineLimits
from vamc_py.inspect.roofline import roofline
from vamc_py.progress import track
from vamc_py.runtime.executor import Tensors
from vamc_py.runtime.limits import matrix_kinds
from vamc_py.runtime.threads import ComputeThread


@dataclass(frozen=True)
class KernelRow:
    """All calls of one kernel in a step."""

    kernel: str
    operator: str
    calls: int
    seconds: float
    bytes: int  # that must cross its boundary at least
    operations: int
    bound: Literal["memory", "arithmetic"]  # the limit that is reached first
    share_of_limit: float  # the least time by that limit, divided by the time


@dataclass(frozen=True)
class StepProfile:
    """A step as it was measured: the rows and the two rests sum to ``seconds``."""

    title: str
    rows: tuple[KernelRow, ...]
    machine_seconds: float  # between the kernels: the virtual machine, and the clock that hears each call
    python_seconds: float  # around them: the checks of the arguments, and the way to the compute thread and back
    seconds: float
    plain_seconds: float  # of the same step without the clock, median


@dataclass(frozen=True)
class Profile:
    """What ``profile`` measures."""

    limits: MachineLimits
    decode: StepProfile
    prefill: StepProfile


@dataclass(frozen=True)
class ProfileSettings:
    """What to measure: ``context`` positions before the decoded token, ``prefill`` tokens, so many rounds."""

    context: int
    prefill: int
    repeats: int

    def check(self, manifest: Manifest) -> None:
        """UserError unless the artifact allows these settings."""
        for name in ("context", "prefill", "repeats"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)}: at least 1 is wanted")
        if self.context >= manifest.limits.context:
            raise UserError(
                f"--context {self.context}: the artifact's context is {manifest.limits.context}, "
                "of which the decoded token takes one; choose a shorter one"
            )
        if self.prefill > (most := min(manifest.limits.prefill, manifest.limits.context)):
            raise UserError(f"--prefill {self.prefill}: a profile shows one step, which takes {most} tokens at most")


def profile(folder: Path, settings: ProfileSettings, *, threads: int | None = None) -> Profile:
    """Measure the artifact in ``folder``.

    Limits and steps are measured in turn, so that they see the same machine. Of the steps that were measured the one of
    the median time is shown, so that its parts sum to it. Tokens are random, from a fixed seed. Raises UserError for
    settings that do not fit and for an artifact without ``ir/``; ArtifactError for one that is damaged or not for this
    machine.
    """
    settings.check(read_manifest(folder))
    graph = final_graph(open_dump(folder))
    room = max(settings.context + 1, settings.prefill)
    executor = ProfiledExecutor.load(folder, slots=2, context=room, threads=threads)
    random = np.random.default_rng(SEED)
    tokens = random.integers(0, executor.vocab_size, room)
    decode = _Measured(executor, tokens, StepSize(1, 1, settings.context, room), DECODE_SLOT)
    prefill = _Measured(executor, tokens, StepSize(settings.prefill, 1, 0, room), PREFILL_SLOT)
    limits = Limits(executor, executor.compute.threads, matrix_kinds(executor.manifest.target.features))
    executor.feed(tokens[: settings.context], slot=DECODE_SLOT, start=0)
    decode.warm_up()
    prefill.warm_up()
    for _ in track(range(settings.repeats), "rounds"):
        limits.sample()
        for _ in range(DECODE_STEPS):
            decode.sample()
        limits.sample()
        prefill.sample()
    best = limits.best()
    return Profile(best, decode.result("decode", graph, best), prefill.result("prefill", graph, best))


@dataclass(frozen=True)
class _Sample:
    seconds: float
    machine_seconds: float  # of them, in the virtual machine
    kernels: KernelTimes


class ProfiledExecutor(TimedExecutor):
    """An executor that also knows how long the virtual machine took, and that can leave the clock out."""

    def __init__(self, manifest: Manifest, module: Any, tensors: Tensors, compute: ComputeThread) -> None:
        super().__init__(manifest, module, tensors, compute)
        self._clocked: Callable[..., Any] = self._step
        self._machine_seconds = 0.0

    def profiled(self, tokens: npt.NDArray[np.int64], size: StepSize, slot: int) -> _Sample:
        """One step with the clock. ``tokens`` are those of the sequence from its start."""
        self._step = self._clocked_step
        started = time.perf_counter()
        kernels = self.timed(tokens, size, slot)
        return _Sample(time.perf_counter() - started, self._machine_seconds, kernels)

    def plain(self, tokens: npt.NDArray[np.int64], size: StepSize, slot: int) -> float:
        """Seconds of the same step without it."""
        self._step = self._unclocked
        started = time.perf_counter()
        self.feed(tokens[size.start : size.start + size.tokens], slot=slot, start=size.start)
        return time.perf_counter() - started

    def _clocked_step(self, *arguments: Any) -> Any:
        started = time.perf_counter()
        result = self._clocked(*arguments)
        self._machine_seconds = time.perf_counter() - started
        return result


class _Measured:
    """The samples of one kind of step."""

    def __init__(self, executor: ProfiledExecutor, tokens: npt.NDArray[np.int64], size: StepSize, slot: int) -> None:
        self._executor, self._tokens, self._size, self._slot = executor, tokens, size, slot
        self._samples: list[_Sample] = []
        self._plain: list[float] = []

    def warm_up(self) -> None:
        """A step that does not count."""
        self._executor.profiled(self._tokens, self._size, self._slot)

    def sample(self) -> None:
        """One step with the clock and one without."""
        self._samples.append(self._executor.profiled(self._tokens, self._size, self._slot))
        self._plain.append(self._executor.plain(self._tokens, self._size, self._slot))

    def result(self, kind: str, graph: FinalGraph, limits: MachineLimits) -> StepProfile:
        """The step of the median time."""
        sample = sorted(self._samples, key=lambda one: one.seconds)[len(self._samples) // 2]
        rows = tuple(_rows(graph, self._size, limits, sample.kernels))
        after = f" after {self._size.start}" if self._size.start else ""
        return StepProfile(
            title=f"{kind}: {self._size.tokens} token{'s' if self._size.tokens > 1 else ''}{after}",
            rows=rows,
            machine_seconds=sample.machine_seconds - sum(row.seconds for row in rows),
            python_seconds=sample.seconds - sample.machine_seconds,
            seconds=sample.seconds,
            plain_seconds=sorted(self._plain)[len(self._plain) // 2],
        )


def _rows(graph: FinalGraph, size: StepSize, limits: MachineLimits, times: KernelTimes) -> Iterator[KernelRow]:
    """The kernels, the one that took longest first."""
    points = [point for point in roofline(graph.calls, size, limits, times).points if point.measured_seconds]
    for point in sorted(points, key=lambda one: -(one.measured_seconds or 0.0)):
        assert point.measured_seconds
        yield KernelRow(
            kernel=point.kernel,
            operator=point.kind,
            calls=point.calls,
            seconds=point.measured_seconds,
            bytes=point.bytes,
            operations=point.operations,
            bound=point.bound,
            share_of_limit=point.least_seconds / point.measured_seconds,
        )
