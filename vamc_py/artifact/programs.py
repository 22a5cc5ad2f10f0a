"""The programs of an artifact of the vacc target, read and checked: what runs them or times them starts here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vamc_py.artifact.manifest import DEVICE_FILE, PROGRAM_FILE, RUNSTREAM_PARAMETERS_FILE, VaccManifest
from vamc_py.errors import ArtifactError
from vamc_py.runstream.check import check_group, check_program, check_stages
from vamc_py.runstream.file import read_program
from vamc_py.runstream.layout import parameter_bytes
from vamc_py.runstream.program import Program, Stage
from vamc_py.target.vacc.device import Device


@dataclass(frozen=True)
class Programs:
    """The device model, and the programs of both stages, each in the order of ranks."""

    device: Device
    prefill: tuple[Program, ...]  # a step takes limits.prefill tokens from position 0 on
    decode: tuple[Program, ...]  # a step takes one token

    @property
    def ranks(self) -> int:
        """How many dies work together."""
        return len(self.prefill)


def read_programs(folder: Path, manifest: VaccManifest, *, check: bool = True) -> Programs:
    """The programs of the artifact in ``folder``, whose files have been checked (``verify.check_vacc_for_load``).

    ArtifactError, naming the file, for one that cannot be read or that is not what the manifest says. With ``check``
    all programs are proved to be safe, alone and together, which takes longer (``vamc_py.runstream.check``).
    """
    device = Device.read(folder / DEVICE_FILE)
    if device.name != manifest.runstreams.device:
        raise ArtifactError(
            f"{folder / DEVICE_FILE}: of {device.name}, the manifest has {manifest.runstreams.device}; "
            "compile the artifact again"
        )
    programs = Programs(
        device,
        prefill=tuple(_programs(folder, manifest, "prefill", manifest.runstreams.prefill)),
        decode=tuple(_programs(folder, manifest, "decode", manifest.runstreams.decode)),
    )
    if check:
        _check(folder, programs)
    return programs


def _programs(folder: Path, manifest: VaccManifest, stage: Stage, names: Sequence[str]) -> Iterator[Program]:
    for rank, name in enumerate(names):
        path = folder / name / PROGRAM_FILE
        program = read_program(path)
        size = manifest.files[f"{name}/{RUNSTREAM_PARAMETERS_FILE}"].size
        if fault := _fault(program, manifest, stage, rank, size):
            raise ArtifactError(f"{path}: {fault}; compile the artifact again")
        yield program


def _fault(program: Program, manifest: VaccManifest, stage: Stage, rank: int, parameters: int) -> str | None:
    """What of a program is not as the manifest says."""
    streams, limits = manifest.runstreams, manifest.limits
    tokens = limits.prefill if stage == "prefill" else 1
    for what, found, wanted in (
        ("stage", program.stage, stage),
        ("rank", program.rank, rank),
        ("number of ranks", program.ranks, streams.ranks),
        ("number of tokens", program.tokens, tokens),
        ("context", program.context, limits.context),
        ("device", program.device, streams.device),
    ):
        if found != wanted:
            return f"its {what} is {found!r}, the manifest has {wanted!r}"
    # The position of a prefill is always 0, the row of a decode, too: such a register may be left out.
    values = {"position": 1 if stage == "prefill" else limits.context, "row": tokens}
    for name in program.registers:
        if name not in values:
            return f"it has a register {name}, and this runtime sets {' and '.join(values)}"
    for name, least in values.items():
        if (limit := program.registers.get(name, 1)) < least:
            return f"its register {name} stays below {limit}, and {least} are wanted"
    others = (tensor.offset for tensor in program.tensors if tensor.role != "parameter")
    if not (end := parameter_bytes(program)) <= parameters <= min(others, default=parameters):
        return f"its parameters end at byte {end}, and {RUNSTREAM_PARAMETERS_FILE} has {parameters} bytes"
    shapes = [tensor.shape for tensor in program.tensors if tensor.role == "output"]
    if shapes != [(manifest.model.vocab_size,)]:
        return f"its logits have the shapes {shapes}, the vocabulary {manifest.model.vocab_size} entries"
    return None


def _check(folder: Path, programs: Programs) -> None:
    device = programs.device
    try:
        for stage in (programs.prefill, programs.decode):
            for program in stage:
                check_program(program, ssram_bytes=device.ssram_bytes, ddr_bytes=device.ddr_bytes)
            check_group(dict(enumerate(stage)))
        for both in zip(programs.prefill, programs.decode, strict=True):
            check_stages(both)
    except ArtifactError as error:
        raise ArtifactError(f"{folder}: {error}") from None
