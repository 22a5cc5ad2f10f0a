"""What a report measures on this machine: its limits, and how long each kernel of an artifact takes."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vamc_py.artifact.cpu import cpu_name
from vamc_py.artifact.manifest import Manifest
from vamc_py.inspect.costs import StepSize
from vamc_py.inspect.report_model import MachineLimits
from vamc_py.pipeline.build import build_limits
from vamc_py.progress import track
from vamc_py.runtime import library, memory
from vamc_py.runtime.executor import Executor, Tensors
from vamc_py.runtime.limits import Caller, MatrixLimit, ReadLimit, matrix_kinds
from vamc_py.runtime.threads import ComputeThread, chosen_threads, compute_thread
from vamc_py.target.description import TargetDescription

SEED = 0
_ROUNDS = 3
DECODE_STEPS = 4  # in a round, with one prefill
DECODE_SLOT, PREFILL_SLOT = 0, 1  # a prefill from position 0 on would drop the context of its slot

KernelTimes = Mapping[str, float]  # seconds of all calls of a kernel in one step, by symbol


class Limits:
    """The limits of the machine, as ``bench`` measures them: the best of all samples. ``kinds`` are those of the peaks.

    The best and not the median, because a limit is what nothing exceeds.
    """

    def __init__(self, caller: Caller, threads: int, kinds: Sequence[str]) -> None:
        self._threads = threads
        read = ReadLimit(caller)
        read.measure()  # maps the pages
        self._loops = {"read": read.measure} | {kind: MatrixLimit(caller, kind).measure for kind in kinds}
        self._best = dict.fromkeys(self._loops, 0.0)

    def sample(self) -> None:
        """Measures once more."""
        self._best = {name: max(self._best[name], loop()) for name, loop in self._loops.items()}

    def best(self) -> MachineLimits:
        """The limits by all samples so far."""
        threads = f"{self._threads} thread{'s' if self._threads > 1 else ''}"
        return MachineLimits(
            machine=f"{cpu_name()}, {threads}",
            bandwidth=self._best["read"],
            int8_peak=self._best["int8"],
            float_peak=self._best["fp32"],
            bf16_peak=self._best.get("bf16"),
        )


def limits_alone(target: TargetDescription) -> MachineLimits:
    """The limits, by loops built for the purpose. The target is that of this machine."""
    loops = LimitLoops(target)
    limits = Limits(loops, loops.compute.threads, matrix_kinds(target.features))
    for _ in range(_ROUNDS):
        limits.sample()
    return limits.best()


def measure_artifact(
    folder: Path, decode: StepSize, prefill: StepSize
) -> tuple[MachineLimits, KernelTimes, KernelTimes]:
    """The limits, and the seconds by kernel of one decode step and of one prefill step, as medians over some.

    Limits and steps are measured in turn, so that they see the same machine. Tokens are random, from a fixed seed; the
    cache is filled up to where decoding starts, which also maps all memory. ArtifactError for an artifact that is
    damaged or not for this machine.
    """
    executor = TimedExecutor.load(folder, slots=2)
    limits = Limits(executor, executor.compute.threads, matrix_kinds(executor.manifest.target.features))
    random = np.random.default_rng(SEED)
    tokens = random.integers(0, executor.vocab_size, max(prefill.tokens, decode.start + decode.tokens))
    decodes: list[KernelTimes] = []
    prefills: list[KernelTimes] = []
    for round_ in track(range(_ROUNDS), "rounds"):
        limits.sample()
        if round_ == 0:
            executor.feed(tokens[: decode.start], slot=DECODE_SLOT, start=0)
        decodes += [executor.timed(tokens, decode, DECODE_SLOT) for _ in range(DECODE_STEPS)]
        limits.sample()
        prefills.append(executor.timed(tokens, prefill, PREFILL_SLOT))
    return limits.best(), _medians(decodes), _medians(prefills)


class LimitLoops:
    """The measuring loops, built for this machine alone: for a dump, which has no compiled module."""

    def __init__(self, target: TargetDescription) -> None:
        self._module = build_limits(target)
        self.compute = compute_thread(chosen_threads(None))
        self.compute.serve_built()

    def call(self, name: str, *arrays: npt.NDArray[Any]) -> None:
        """Runs a loop on aligned arrays (``memory.zeros``), with the threads that ``vamc-py run`` uses."""
        self.compute.call(self._module[name], *(memory.tensor(array) for array in arrays))


class TimedExecutor(Executor):
    """An executor that knows how long each kernel took."""

    def __init__(self, manifest: Manifest, module: Any, tensors: Tensors, compute: ComputeThread) -> None:
        super().__init__(manifest, module, tensors, compute)
        self._unclocked: Callable[..., Any] = self._step
        machine = library.load_executable(module)
        machine["set_instrument"](self._hear)
        self._step = machine[manifest.step.name]
        self._started = 0.0
        self._seconds: dict[str, float] = defaultdict(float)

    def timed(self, tokens: npt.NDArray[np.int64], size: StepSize, slot: int) -> KernelTimes:
        """One step: seconds by kernel, over all its calls. ``tokens`` are those of the sequence from its start."""
        self._seconds = defaultdict(float)
        self.feed(tokens[size.start : size.start + size.tokens], slot=slot, start=size.start)
        return dict(self._seconds)

    def _hear(self, _function: Any, name: str, before: bool, _result: Any, *_arguments: Any) -> int:
        """The virtual machine calls this before and after each call of a kernel; 0 means: go on."""
        if before:
            self._started = time.perf_counter()
        else:
            self._seconds[name] += time.perf_counter() - self._started
        return 0


def _medians(steps: list[KernelTimes]) -> KernelTimes:
    names = {name for step in steps for name in step}
    return {name: statistics.median(step.get(name, 0.0) for step in steps) for name in sorted(names)}
