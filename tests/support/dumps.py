"""Dumps of tiny random models, made as ``vamc-py compile --dump-ir`` makes them, without the build and the weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.checkpoints import write_checkpoint
from support.end_to_end import configuration

from vamc_py.compiler import Lowered, context_of, lower, open_model, trace_model
from vamc_py.config import LoadedConfig
from vamc_py.inspect.dump import Dump, open_dump
from vamc_py.inspect.dump_writer import DumpWriter
from vamc_py.pipeline.resolve import resolve_pipeline
from vamc_py.pipeline.runner import Observer, PassRun
from vamc_py.target.description import this_machine


class KeepRuns(Observer):
    """Keeps what every pass was given and gave."""

    def __init__(self) -> None:
        self.runs: list[PassRun] = []

    def after(self, run: PassRun) -> None:
        self.runs.append(run)


@dataclass(frozen=True)
class Dumped:
    """A dump and the run that it was made of."""

    dump: Dump
    runs: tuple[PassRun, ...]
    lowered: Lowered


def make_dump(
    folder: Path,
    *,
    layers: int = 2,
    dtype: str = "int8",
    architecture: str = "qwen3",
    text: bool = True,
    only_function: str | None = None,
    overrides: Sequence[str] = (),
    **shape: Any,
) -> Dump:
    """Dumps a tiny random model into ``folder``; its checkpoint lies beside it, in ``<folder>-checkpoint``.

    ``overrides`` are those of ``--set``; ``shape`` the other arguments of ``model_config``: hidden, heads, tied, …
    """
    loaded = tiny_configuration(folder, layers, dtype, architecture, overrides, shape)
    return dump_of(loaded, folder, text=text, only_function=only_function).dump


def tiny_configuration(
    folder: Path, layers: int, dtype: str, architecture: str, overrides: Sequence[str], shape: dict[str, Any]
) -> LoadedConfig:
    """The configuration of a tiny random checkpoint, which is written beside ``folder``."""
    checkpoint = folder.with_name(f"{folder.name}-checkpoint")
    write_checkpoint(checkpoint, architecture=architecture, layers=layers, **shape)
    return configuration(checkpoint, folder.parent, dtype=dtype, overrides=overrides)


def dump_of(loaded: LoadedConfig, folder: Path, *, text: bool = True, only_function: str | None = None) -> Dumped:
    """Runs the passes of a configuration with a DumpWriter listening."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = DumpWriter(folder, loaded, text=text, only_function=only_function)
    runs, lowered = run_all(loaded, writer)
    writer.write_times({"trace": 0.5})
    return Dumped(open_dump(folder), runs, lowered)


def run_all(loaded: LoadedConfig, *observers: Observer) -> tuple[tuple[PassRun, ...], Lowered]:
    """The passes of a configuration, as a compile runs them, and what each of them did."""
    config = loaded.config
    checkpoint, model = open_model(config)
    program = trace_model(config, checkpoint, model)
    context = context_of(config, this_machine(config.backend.dtype), checkpoint, model)
    kept = KeepRuns()
    lowered = lower(program, resolve_pipeline(loaded), context, [*observers, kept])
    return tuple(kept.runs), lowered
