"""The simulated dies of an artifact: their memories, the functions of their kernels, and a step of each stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vamc_py.artifact.manifest import MODULE_FILE, RUNSTREAM_PARAMETERS_FILE, VaccManifest
from vamc_py.artifact.programs import Programs, read_programs
from vamc_py.errors import ArtifactError
from vamc_py.runstream.execute import Die, run_stage
from vamc_py.runstream.memory import DieMemory
from vamc_py.runstream.program import Program
from vamc_py.runtime import library
from vamc_py.runtime.simulation import Simulation
from vamc_py.runtime.threads import ComputeThread

Tokens = npt.NDArray[np.int32]
Logits = npt.NDArray[np.float32]


class SimulatedDies:
    """A die for each rank. Caches are zero at first and keep what steps write; steps must come one at a time."""

    def __init__(self, folder: Path, manifest: VaccManifest, compute: ComputeThread) -> None:
        """The dies of the artifact in ``folder``, whose kernels use the threads of ``compute``.

        ArtifactError for programs that are damaged, unsafe, or have no kernels, or where the memory does not suffice.
        """
        self.programs = read_programs(folder, manifest)
        self.simulation = Simulation(self.programs)
        modules = _Modules(folder, manifest, compute)
        streams = manifest.runstreams
        memories = _memories(folder, streams.prefill, self.programs)
        # Kernels of the two stages may have the same name: a die for each stage, over one memory.
        self._prefill = _dies(memories, modules, streams.prefill, self.programs.prefill)
        self._decode = _dies(memories, modules, streams.decode, self.programs.decode)

    def prefill(self, tokens: Tokens) -> Logits:
        """Put 1 to ``limits.prefill`` tokens at the positions from 0 on; float32 logits [vocab] of the last.

        The program takes its full length: the rest is token 0. What that writes into the caches lies behind the text,
        where no token of it looks, and the next tokens overwrite it.
        """
        program = self.programs.prefill[0]
        padded = np.zeros(program.tokens, np.int32)
        padded[: len(tokens)] = tokens
        return self._run(self._prefill, self.programs.prefill, padded, position=0, row=len(tokens) - 1)

    def decode(self, token: int, position: int) -> Logits:
        """Put one token at a position; its float32 logits [vocab]."""
        tokens = np.array([token], np.int32)
        return self._run(self._decode, self.programs.decode, tokens, position=position, row=0)

    def _run(self, dies: Sequence[Die], programs: Sequence[Program], tokens: Tokens, **registers: int) -> Logits:
        # A register that has one value only may be left out of a program.
        wanted = {name: value for name, value in registers.items() if name in programs[0].registers}
        return run_stage(dies, programs, {"tokens": tokens}, wanted)


class _Modules:
    """The libraries of kernels; files of the same content are loaded once."""

    def __init__(self, folder: Path, manifest: VaccManifest, compute: ComputeThread) -> None:
        self._folder = folder
        self._files = manifest.files
        self._compute = compute
        self._loaded: dict[str, Any] = {}  # by hash

    def kernels(self, name: str, program: Program) -> dict[str, Callable[..., Any]]:
        """The functions of a program's kernels, from the module in the folder ``name``."""
        module = self._module(f"{name}/{MODULE_FILE}")
        functions = {}
        for kernel in program.kernels:
            try:
                functions[kernel] = module.get_function(kernel, query_imports=True)
            except AttributeError as error:
                path = self._folder / name / MODULE_FILE
                raise ArtifactError(f"{path}: has no kernel {kernel}; compile the artifact again") from error
        return functions

    def _module(self, name: str) -> Any:
        digest = self._files[name].sha256
        if digest not in self._loaded:
            module = library.load_module(self._folder / name)
            self._compute.serve(module)
            self._loaded[digest] = module
        return self._loaded[digest]


def _memories(folder: Path, names: Sequence[str], programs: Programs) -> list[DieMemory]:
    """The memory of each rank, its parameters mapped: as much DDR as its programs use, all of the device's SSRAM."""
    memories = []
    for name, prefill, decode in zip(names, programs.prefill, programs.decode, strict=True):
        size = max(prefill.ddr_bytes, decode.ddr_bytes)
        try:
            memories.append(
                DieMemory(
                    folder / name / RUNSTREAM_PARAMETERS_FILE,
                    ddr_bytes=size,
                    ssram_bytes=programs.device.ssram_bytes,
                )
            )
        except (MemoryError, OSError) as error:
            raise ArtifactError(
                f"{folder}: rank {prefill.rank} needs {size / 1e9:.1f} GB of DDR, which this machine has not left to "
                "simulate it; compile with a shorter context, or use `vamc-py simulate`, which needs no memory"
            ) from error
    return memories


def _dies(
    memories: Sequence[DieMemory], modules: _Modules, names: Sequence[str], programs: Sequence[Program]
) -> list[Die]:
    return [
        Die(memory, modules.kernels(name, program))
        for memory, name, program in zip(memories, names, programs, strict=True)
    ]
