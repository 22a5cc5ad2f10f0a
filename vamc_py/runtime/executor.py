"""The executor: an artifact made ready to step, with its parameters mapped and its KV cache kept."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from vamc_py.artifact.manifest import MODULE_FILE, PARAMETERS_FILE, Function, Manifest
from vamc_py.artifact.verify import check_for_load
from vamc_py.errors import ArtifactError, UserError
from vamc_py.runtime import batch as batches
from vamc_py.runtime import cache, library, memory
from vamc_py.runtime.batch import Batch, Bounds, Integers
from vamc_py.runtime.parameters import map_parameters
from vamc_py.runtime.threads import ComputeThread, chosen_threads, compute_thread

Logits = npt.NDArray[np.float32]
_KEPT_LENGTH = 64  # tokens in a step
_INPUTS = ("tokens", "positions", "slots", "rows", "pages")


class Executor:
    """A loaded artifact with ``slots`` sequences of up to ``context`` positions each.

    Load one with ``Executor.load``. Each slot holds one sequence: give its tokens in order of position with ``feed``
    (one sequence) or ``step`` (a batch over several). A sequence is cut back by feeding again from an earlier
    position. Methods may be called from any thread; steps run one after another.
    """

    def __init__(self, manifest: Manifest, module: Any, tensors: Tensors, compute: ComputeThread) -> None:
        self.manifest = manifest
        self.context = tensors.context
        self.slots = tensors.slots
        self.vocab_size = manifest.model.vocab_size
        self.module = module  # the library's functions by name; bench finds the machine's limits there
        self.compute = compute
        self._step = library.load_executable(module)[manifest.step.name]
        self._tensors = tensors
        self._bounds = Bounds(
            self.vocab_size, self.slots, self.context, manifest.limits.prefill, manifest.one_slot_a_step
        )
        self._filled = [0] * self.slots  # positions of each slot that hold a token of its present sequence
        self._running: Future[Logits] | None = None
        self._lock = threading.Lock()

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        slots: int = 1,
        context: int | None = None,
        threads: int | None = None,
        verify: bool | None = None,
    ) -> Self:
        """Load the artifact in ``folder``.

        ``slots``: sequences at a time. ``context``: positions of each, at most and by default the artifact's limit.
        ``threads``: threads of compiled code, by default ``threads.chosen_threads``. ``verify``: True hashes all
        files, False none, None only if these files have not been hashed before.

        Raises ArtifactError for an artifact that is damaged or not for this machine, UserError for the other arguments.
        """
        manifest = check_for_load(folder, hashes=verify)
        _check_signature(manifest.step)
        context = batches.check_context(context, manifest.limits.context)
        if slots < 1:
            raise UserError(f"{slots} slots: at least one is wanted")
        compute = compute_thread(chosen_threads(threads))
        tensors = Tensors(folder, manifest, slots=slots, context=context)
        module = library.load_module(folder / MODULE_FILE)
        compute.serve(module)
        return cls(manifest, module, tensors, compute)

    def step(self, tokens: Integers, positions: Integers, slots: Integers, rows: Integers) -> Logits:
        """One step over ``n`` tokens: float32 logits [m, vocab] of the tokens at the indices ``rows`` (``m`` of them).

        Token i stands at ``positions[i]`` of slot ``slots[i]``. The tokens of one slot stand together, ascend by one,
        and start no later than where the slot's sequence ends. ``n`` is at most ``manifest.limits.prefill``; ``m`` may
        be 0. Raises UserError for arguments that break these rules.
        """
        return self._begin(batches.check(tokens, positions, slots, rows, self._bounds)).result()

    def feed(self, tokens: Integers, *, slot: int, start: int) -> Logits:
        """Put ``tokens`` at the positions from ``start`` on of one slot; float32 logits [vocab] of the last one.

        As many steps as the artifact's prefill limit asks for. Raises UserError, before any step, for tokens that do
        not fit in the context.
        """
        return self.begin_feed(tokens, slot=slot, start=start).result()[0]  # type: ignore[no-any-return]

    def begin_feed(self, tokens: Integers, *, slot: int, start: int) -> Future[Logits]:
        """``feed`` without waiting for the last of its steps, whose logits [1, vocab] the result is.

        The step goes on whether its result is taken or not, and the next one waits for it.
        """
        array = batches.check_feed(tokens, start=start, context=self.context, compiled=self.manifest.limits.context)
        limit = self._bounds.tokens
        for first in range(0, len(array), limit):
            chunk = array[first : first + limit]
            last = first + len(chunk) == len(array)
            step = self._begin(batches.check_run(chunk, slot=slot, start=start + first, last=last, bounds=self._bounds))
            if not last:
                step.result()
        return step

    def call(self, name: str, *arrays: npt.NDArray[Any]) -> None:
        """Run the module's plain function ``name`` on aligned arrays (``memory.zeros``), with the executor's threads.

        Raises ArtifactError where the module has no such function.
        """
        try:
            function = self.module.get_function(name, query_imports=True)  # the root holds the VM only
        except AttributeError as error:
            raise ArtifactError(f"{MODULE_FILE} has no function {name}; compile the artifact again") from error
        self.compute.call(function, *(memory.tensor(array) for array in arrays))

    def _begin(self, batch: Batch) -> Future[Logits]:
        """Start a step once the one before is through."""
        with self._lock:
            if self._running is not None:
                wait([self._running])  # its fault, if it had one, is told to who takes its result
            batches.check_no_gap(batch, self._filled)
            for slot, start, _ in batch.runs:
                self._filled[slot] = start  # until the step is through: one that fails may have written
            self._running = self.compute.submit(self._run, batch)
            return self._running

    def _run(self, batch: Batch) -> Logits:
        """On the compute thread: alone there, so that the index tensors are not overwritten while in use."""
        inputs = self._tensors.inputs(batch)
        logits = self._step(*inputs, self._tensors.caches, self._tensors.parameters)
        for slot, _, end in batch.runs:
            self._filled[slot] = end
        return np.asarray(np.from_dlpack(logits), np.float32)  # no copy: they are float32


class Tensors:
    """The tensors that a step is called with, allocated once."""

    def __init__(self, folder: Path, manifest: Manifest, *, slots: int, context: int) -> None:
        array: Callable[[list[Any]], Any] = library.load().Array
        self.slots = slots
        self.context = context
        self.parameters = array(map_parameters(folder / PARAMETERS_FILE, manifest.parameters))
        self.caches = array(cache.allocate(manifest.step.caches, slots=slots, context=context))
        # One page a slot, so page and slot have the same number.
        pages = memory.zeros((slots, 1), "int32")
        pages[:, 0] = np.arange(slots)
        self._pages = memory.tensor(pages)
        self._indices = [memory.zeros((manifest.limits.prefill,), "int32") for _ in range(4)]
        self._views: dict[tuple[int, int], Any] = {}

    def inputs(self, batch: Batch) -> list[Any]:
        """The step's tensor inputs, in memory that the next call overwrites."""
        tensors = []
        for index, values in enumerate((batch.tokens, batch.positions, batch.slots, batch.rows)):
            self._indices[index][: len(values)] = values
            tensors.append(self._view(index, len(values)))
        return [*tensors, self._pages]

    def _view(self, index: int, length: int) -> Any:
        """A tensor over the beginning of an index array; those of short steps, which decoding takes, are made once."""
        view = self._views.get((index, length))
        if view is None:
            # A slice, not an array of its own: numpy gives an empty array a stride of 0, which compiled code refuses.
            view = memory.tensor(self._indices[index][:length])
            if length <= _KEPT_LENGTH:
                self._views[index, length] = view
        return view


def _check_signature(step: Function) -> None:
    names = tuple(spec.name for spec in step.inputs)
    if names != _INPUTS:
        raise ArtifactError(f"the function {step.name} takes {names} instead of {_INPUTS}; compile the artifact again")
