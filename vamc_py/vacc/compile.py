"""Behind the passes of a compile for vacc: programs, kernels, parameters, and the manifest that names them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from vamc_py._link import Link
from vamc_py.artifact.manifest import (
    DEVICE_FILE,
    MODULE_FILE,
    PROGRAM_FILE,
    RUNSTREAM_PARAMETERS_FILE,
    Limits,
    Runstreams,
    Target,
    VaccManifest,
)
from vamc_py.artifact.write import ArtifactWriter, built_with
from vamc_py.checkpoint import Checkpoint
from vamc_py.config import LoadedConfig
from vamc_py.errors import ArtifactError
from vamc_py.frontend.model_config import ModelConfig, model_facts
from vamc_py.pipeline.base import Context
from vamc_py.pipeline.program import Program
from vamc_py.pipeline.runner import Planned
from vamc_py.progress import track
from vamc_py.runstream.check import check_group, check_program, check_stages
from vamc_py.runstream.file import write_program
from vamc_py.runstream.program import Program as Runstream
from vamc_py.runstream.program import Stage
from vamc_py.schedules.vacc.emit.step import Figures
from vamc_py.schedules.vacc.host import export_kernels
from vamc_py.target.description import TargetDescription
from vamc_py.target.vacc.device import Device
from vamc_py.vacc.dies import Die, write_dies
from vamc_py.vacc.parameters import digest, write_die_parameters

STAGES: tuple[Stage, ...] = ("prefill", "decode")


@dataclass(frozen=True)
class Runs:
    """The programs of a compile, and the folders that they go to."""

    dies: Sequence[Die]
    folders: Runstreams
    device: Device

    def of_stage(self, stage: Stage) -> tuple[str, ...]:
        """The folders of a stage, by rank."""
        return self.folders.prefill if stage == "prefill" else self.folders.decode

    def programs(self, stage: Stage) -> list[Runstream]:
        """The programs of a stage, by rank."""
        return [die.stages[stage].program for die in self.dies]


def write_runstreams(
    loaded: LoadedConfig, program: Program, pipeline: Sequence[Planned], context: Context, vocabulary: int
) -> Runs:
    """The programs of all dies, proven to keep to their memories and their order.

    `program` is as it was before the first pass that knows a rank, with which `pipeline` begins. UserError where the
    model does not fit the device.
    """
    device = loaded.config.device
    ranks = loaded.config.frontend.model_kwargs.tp
    figures = Figures(device.name, device.cores, device.ssram_bytes, device.ddr_bytes)
    dies = write_dies(program, pipeline, context, figures, ranks=ranks, vocabulary=vocabulary)
    _prove(dies, device)
    limits = Limits(prefill=context.prefill, context=context.context)
    return Runs(dies, Runstreams.named(device.name, limits, ranks), device)


def _prove(dies: Sequence[Die], device: Device) -> None:
    """What a reader of the artifact checks, too. A fault here is one of the compiler."""
    try:
        for die in dies:
            for written in die.stages.values():
                check_program(written.program, ssram_bytes=device.ssram_bytes, ddr_bytes=device.ddr_bytes)
            check_stages(written.program for written in die.stages.values())
        for stage in STAGES:
            check_group({die.rank: die.stages[stage].program for die in dies})
    except ArtifactError as fault:
        raise RuntimeError(f"the compiler wrote a runstream that is not safe: {fault}") from fault


def write_files(runs: Runs, writer: ArtifactWriter, link: Mapping[str, Link]) -> None:
    """Every file of the artifact's runstreams but their parameters: programs, kernels for the host, the device."""
    writer.path(DEVICE_FILE).write_text(runs.device.json_text(), encoding="utf-8")
    for stage in STAGES:
        folders = runs.of_stage(stage)
        for die, folder in zip(runs.dies, folders, strict=True):
            write_program(writer.directory(folder) / PROGRAM_FILE, die.stages[stage].program)
        # Every die has the same kernels but where their shares of the model differ, so one library serves all.
        kernels = {name: kernel for die in runs.dies for name, kernel in die.stages[stage].kernels.items()}
        first = f"{folders[0]}/{MODULE_FILE}"
        export_kernels(kernels.values(), writer.path(first), link)
        for folder in folders[1:]:
            writer.link(first, f"{folder}/{MODULE_FILE}")


def write_weights(runs: Runs, checkpoint: Checkpoint, writer: ArtifactWriter, context: int) -> None:
    """mod.params of each die, one file for both of its stages."""
    for die in runs.dies:
        first, second = (f"{runs.of_stage(stage)[die.rank]}/{RUNSTREAM_PARAMETERS_FILE}" for stage in STAGES)
        path = writer.path(first)
        said = f"weights of rank {die.rank}" if len(runs.dies) > 1 else "weights"
        write_die_parameters(die, checkpoint, path, context, partial(track, description=said))
        writer.know_digest(first, digest(path))
        writer.link(first, second)


def manifest_of(
    loaded: LoadedConfig,
    checkpoint: Checkpoint,
    model: ModelConfig,
    target: TargetDescription,
    runs: Runs,
    notes: tuple[str, ...],
) -> VaccManifest:
    """What the artifact says of itself."""
    config = loaded.config
    return VaccManifest(
        name=config.name,
        target=Target(kind=target.kind, mcpu=target.mcpu, features=target.features, dtype=target.dtype),
        model=model_facts(model),
        limits=Limits(prefill=config.prefill_length, context=config.context_length),
        runstreams=runs.folders,
        files={},
        built_with=built_with(),
        source={
            "checkpoint": checkpoint.fingerprint(),
            "config": hashlib.sha256(loaded.text.encode()).hexdigest(),
        },
        slow_operators=notes,
    )
