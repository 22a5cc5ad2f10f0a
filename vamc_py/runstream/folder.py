"""The programs and the device of an artifact of vacc, as the timing and the listings need them; no kernels, no
parameters."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from vamc_py.errors import ArtifactError
from vamc_py.runstream.file import read_program
from vamc_py.runstream.program import Program, Stage
from vamc_py.target.vacc.device import Device

STAGES: tuple[Stage, ...] = ("prefill", "decode")
_STREAM = re.compile(r"(prefill|decode)_[0-9]+_rank[0-9]+")


def is_artifact(path: Path) -> bool:
    """Whether a folder holds programs of an artifact of vacc."""
    return path.is_dir() and bool(_folders(path))


def read_device(artifact: Path) -> Device:
    """The device that an artifact was compiled for. ArtifactError where there is none."""
    return Device.read(artifact / "device.json")


def read_stages(artifact: Path, stages: Sequence[Stage] = STAGES) -> dict[Stage, list[Program]]:
    """The programs of these stages, those that the artifact has, in the order of ranks.

    ArtifactError where there are none at all, a rank is missing, or a folder's name is not what its program says.
    """
    if not is_artifact(artifact):
        raise ArtifactError(
            f"{artifact}: no artifact of vacc: it has no folder such as prefill_512_rank0; name the folder that "
            "`vamc-py compile` wrote with backend.type tvm_vacc"
        )
    found: dict[Stage, list[Program]] = {}
    for folder in _folders(artifact):
        if folder.name.partition("_")[0] in stages:
            program = _named_program(folder)
            found.setdefault(program.stage, []).append(program)
    if not found:
        raise ArtifactError(f"{artifact}: has no program of {' or '.join(stages)}")
    for stage, programs in found.items():
        programs.sort(key=lambda program: program.rank)
        _check_ranks(artifact, stage, programs)
    return {stage: found[stage] for stage in stages if stage in found}


def _folders(artifact: Path) -> list[Path]:
    try:
        return sorted(path for path in artifact.iterdir() if _STREAM.fullmatch(path.name) and path.is_dir())
    except OSError as error:
        raise ArtifactError(f"{artifact}: cannot be read: {error.strerror or error}") from None


def _named_program(folder: Path) -> Program:
    program = read_program(folder)
    length = program.tokens if program.stage == "prefill" else program.context
    name = f"{program.stage}_{length}_rank{program.rank}"
    if folder.name != name:
        raise ArtifactError(f"{folder}: holds the program of {name}; the folder was renamed or its file replaced")
    return program


def _check_ranks(artifact: Path, stage: Stage, programs: Sequence[Program]) -> None:
    ranks, found = programs[0].ranks, [program.rank for program in programs]
    if len({program.tokens for program in programs}) > 1 or len(set(found)) < len(found):
        raise ArtifactError(f"{artifact}: holds programs of several lengths for {stage}; keep one")
    missing = sorted(set(range(ranks)) - set(found))
    if missing:
        ranks_text = ", ".join(map(str, missing))
        raise ArtifactError(
            f"{artifact}: the {stage} of rank {ranks_text} is missing, of {ranks} ranks; copy the artifact whole"
        )
