"""The executor of vacc artifacts: its dies are simulated, and each kernel is a function of the host.

A prompt from position 0 on goes through the prefill program in one step, up to the length that it was compiled for;
everything else goes through the decode program token by token.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from vamc_py.artifact.manifest import VaccManifest
from vamc_py.artifact.verify import check_vacc_for_load
from vamc_py.runtime import batch as batches
from vamc_py.runtime.batch import Batch, Bounds, Integers
from vamc_py.runtime.dies import SimulatedDies
from vamc_py.runtime.threads import ComputeThread, chosen_threads, compute_thread

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Piece:
    """Tokens that one run of a program takes, by their index in a batch: ``first`` up to before ``end``."""

    first: int
    end: int
    prefill: bool  # which program


class VaccExecutor:
    """A loaded artifact of the vacc target with one sequence of up to ``context`` positions.

    It takes what ``executor.Executor`` takes, for slot 0 alone. Methods may be called from any thread; programs run one
    after another on a thread of their own. A fault of the simulation reaches whoever takes the step's result.
    """

    slots = 1

    def __init__(self, manifest: VaccManifest, dies: SimulatedDies, context: int, compute: ComputeThread) -> None:
        self.manifest = manifest
        self.context = context
        self.vocab_size = manifest.model.vocab_size
        self.dies = dies
        self.compute = compute
        # A step of any length is cut into pieces here, so the context is its only limit.
        self._bounds = Bounds(self.vocab_size, self.slots, context, tokens=context, one_slot=True)
        self._filled = [0]  # positions that hold a token of the present sequence
        self._running: Future[Logits] | None = None
        self._lock = threading.Lock()

    @classmethod
    def load(
        cls, folder: Path, *, context: int | None = None, threads: int | None = None, verify: bool | None = None
    ) -> Self:
        """Load the artifact in ``folder``.

        ``context``: positions of the sequence, at most and by default the artifact's limit. ``threads``: threads of the
        host's kernels, by default ``threads.chosen_threads``. ``verify``: True hashes all files, False none, None only
        if these files have not been hashed before.

        Raises ArtifactError for an artifact that is damaged or not for this machine, UserError for the other arguments.
        """
        manifest = check_vacc_for_load(folder, hashes=verify)
        context = batches.check_context(context, manifest.limits.context)
        compute = compute_thread(chosen_threads(threads))
        return cls(manifest, SimulatedDies(folder, manifest, compute), context, compute)

    def step(self, tokens: Integers, positions: Integers, slots: Integers, rows: Integers) -> Logits:
        """Float32 logits [m, vocab] of the tokens at the indices ``rows``; see ``executor.Executor.step``.

        A program gives the logits of one token, so those between the first wanted one and the last go one by one.
        """
        return self._begin_pieces(batches.check(tokens, positions, slots, rows, self._bounds)).result()

    def feed(self, tokens: Integers, *, slot: int, start: int) -> Logits:
        """Put ``tokens`` at the positions from ``start`` on; float32 logits [vocab] of the last one."""
        return self.begin_feed(tokens, slot=slot, start=start).result()[0]  # type: ignore[no-any-return]

    def begin_feed(self, tokens: Integers, *, slot: int, start: int) -> Future[Logits]:
        """``feed`` without waiting for the last run of a program, whose logits [1, vocab] the result is.

        It goes on whether its result is taken or not, and the next one waits for it.
        """
        array = batches.check_feed(tokens, start=start, context=self.context, compiled=self.manifest.limits.context)
        return self._begin_pieces(batches.check_run(array, slot=slot, start=start, last=True, bounds=self._bounds))

    def _begin_pieces(self, batch: Batch) -> Future[Logits]:
        """Run the pieces of a batch, all but the last to their end; the logits of all wanted rows are its result."""
        with self._lock:
            if self._running is not None:
                wait([self._running])  # its fault, if it had one, is told to who takes its result
            batches.check_no_gap(batch, self._filled)
            found: dict[int, Logits] = {}
            # A piece is a task of its own: whoever is interrupted while waiting leaves one running, not all of them.
            pieces = list(_pieces(batch, self.manifest.limits.prefill))
            for piece in pieces[:-1]:
                self._running = self.compute.submit(self._run, batch, piece, found)
                self._running.result()
            self._running = self.compute.submit(self._run, batch, pieces[-1], found)
            return self._running

    def _run(self, batch: Batch, piece: Piece, found: dict[int, Logits]) -> Logits:
        """On the compute thread: one run of a program. The logits of the wanted rows that were found so far."""
        start = int(batch.positions[piece.first])
        self._filled[0] = start  # until the run is through: one that fails may have written
        tokens = batch.tokens[piece.first : piece.end]
        logits = self.dies.prefill(tokens) if piece.prefill else self.dies.decode(int(tokens[0]), start)
        self._filled[0] = start + len(tokens)
        found[piece.end - 1] = logits
        rows = [found[row] for row in batch.rows.tolist() if row in found]
        return np.stack(rows) if rows else np.empty((0, self.vocab_size), np.float32)


def _pieces(batch: Batch, prefill: int) -> Iterator[Piece]:
    """The batch in order; the last token of each piece is the only one whose logits are known then."""
    count = len(batch.tokens)
    first_wanted = int(batch.rows.min(initial=count - 1))
    done = 0
    if batch.positions[0] == 0:
        done = min(prefill, first_wanted + 1)
        yield Piece(0, done, prefill=True)
    for index in range(done, count):
        yield Piece(index, index + 1, prefill=False)
