"""Faults put into a compiled artifact of the vacc target, its hashes made to agree: each is refused on load."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.vacc_models import Models, logits_along, text

from vamc_py.artifact.manifest import MANIFEST_FILE
from vamc_py.errors import ArtifactError
from vamc_py.runstream.file import read_program, write_program
from vamc_py.runstream.order import order_faults
from vamc_py.runstream.program import Access, Collective, Command, Launch, Program, Transfer
from vamc_py.runtime.vacc import VaccExecutor

FIRST, OTHER, DECODE = "prefill_16_rank0", "prefill_16_rank1", "decode_48_rank0"
Edit = Callable[[Program], Program]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two layers for two dies, int8 weights beside int8 and float16 activations."""
    return Models(tmp_path_factory.mktemp("vacc_faults")).artifact("qwen3", "int8_g32", 2)


@pytest.fixture
def artifact(pristine: Path, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(pristine, tmp_path / "model"))
    (folder / ".verified").unlink(missing_ok=True)
    return folder


def vouch(folder: Path, *names: str) -> None:
    """Make the manifest say what the files are now."""
    path = folder / MANIFEST_FILE
    record = json.loads(path.read_bytes())
    for name in names:
        data = (folder / name).read_bytes()
        record["files"][name] |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    path.write_text(json.dumps(record))


def edit(folder: Path, stream: str, change: Edit) -> None:
    """Change a program, as if the compiler had written it so."""
    path = folder / stream / "mod.json"
    write_program(path, change(read_program(path)))
    vouch(folder, f"{stream}/mod.json")


def refused(folder: Path, message: str) -> str:
    with pytest.raises(ArtifactError, match=message) as fault:
        VaccExecutor.load(folder)
    assert str(folder) in str(fault.value)
    assert "again" in str(fault.value)  # what to do: compile or copy it again
    return str(fault.value)


def first(program: Program, wanted: Callable[[Command], bool], after: int = 0) -> int:
    return next(n for n, command in enumerate(program.commands) if n >= after and wanted(command))


def with_command(program: Program, number: int, **changes: Any) -> Program:
    command = program.commands[number].model_copy(update=changes)
    return program.model_copy(
        update={"commands": (*program.commands[:number], command, *program.commands[number + 1 :])}
    )


def weights_of(program: Program, after: int = 0) -> tuple[int, Access]:
    """The first load of weights behind a command, and where it puts them."""
    number = first(program, lambda command: isinstance(command, Transfer) and command.engine == "wddma", after)
    command = program.commands[number]
    assert isinstance(command, Transfer)
    return number, command.target


def outside_ssram(program: Program) -> Program:
    number, place = weights_of(program)
    return with_command(program, number, target=place.model_copy(update={"offset": 1 << 18}))


def outside_ddr(program: Program) -> Program:
    number, place = weights_of(program)
    source = Access(memory="ddr", offset=1 << 30, size=place.bytes)
    return with_command(program, number, source=source)


def on_a_parameter(program: Program) -> Program:
    table = next(tensor for tensor in program.tensors if tensor.name == "model.embed_tokens.weight")
    last = len(program.commands) - 1  # the logits
    return with_command(program, last, target=Access(memory="ddr", offset=table.offset, size=288 * 4))


def behind_its_place(program: Program) -> Program:
    number, place = weights_of(program)
    return with_command(program, number, target=place.model_copy(update={"offset": place.offset + 64}))


def on_another_buffer(program: Program) -> Program:
    """Weights are loaded to where the product that runs meanwhile has its inputs."""
    product = first(program, lambda command: isinstance(command, Launch) and command.engine == "matrix")
    launch = program.commands[product]
    assert isinstance(launch, Launch)
    number, place = weights_of(program, after=product)
    inputs = launch.arguments[0].access.offset
    return with_command(program, number, target=place.model_copy(update={"offset": inputs}))


def too_short(program: Program) -> Program:
    number, place = weights_of(program)
    return with_command(program, number, target=place.model_copy(update={"size": 4}))


def test_the_artifact_is_sound(artifact: Path) -> None:
    logits = logits_along(VaccExecutor.load(artifact), text(20), 16)
    edit(artifact, FIRST, lambda program: program)  # written again it is the same
    assert (logits_along(VaccExecutor.load(artifact), text(20), 16) == logits).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (outside_ssram, "writes SSRAM from byte 262144 to [0-9]+, of which the program has"),
        (outside_ddr, "reads DDR from byte 1073741824 to [0-9]+, which does not lie in one tensor"),
        (on_a_parameter, r"writes DDR from byte [0-9]+ to [0-9]+, which belongs to the parameter model\.embed_tokens"),
        (behind_its_place, "reads SSRAM at byte [0-9]+, which no earlier command has written"),
        (
            on_another_buffer,
            "writes SSRAM at byte [0-9]+, which .* and no event orders the two: it has to wait for command",
        ),
        (too_short, "reads [0-9]+ bytes and writes 4"),
    ],
)
def test_a_wrong_address(artifact: Path, change: Edit, message: str) -> None:
    edit(artifact, FIRST, change)
    refused(artifact, rf"prefill of rank 0: command [0-9]+ \(.+\) {message}")


def test_a_kernel_at_a_wrong_address(artifact: Path) -> None:
    def change(program: Program) -> Program:
        number = first(program, lambda command: isinstance(command, Launch) and command.engine == "matrix")
        command = program.commands[number]
        assert isinstance(command, Launch)
        argument = command.arguments[0]
        place = argument.access.model_copy(update={"offset": argument.access.offset + 1})
        arguments = (argument.model_copy(update={"access": place}), *command.arguments[1:])
        return with_command(program, number, arguments=arguments)

    edit(artifact, DECODE, change)
    refused(artifact, r"decode of rank 0: command \d+ \(layers.0.*\) gives gemm_f16\w+ an address that is no multiple")


@pytest.mark.parametrize("stream", [FIRST, DECODE])
def test_a_wait_that_is_missing(artifact: Path, pristine: Path, stream: str) -> None:
    program = read_program(pristine / stream / "mod.json")
    waits = [(number, wait) for number, command in enumerate(program.commands) for wait in command.waits]
    assert len(waits) > 50
    # Each of them is needed: without it two commands may meet.
    assert [(number, wait) for number, wait in waits if not list(order_faults(without(program, number, wait)))] == []
    number, wait = waits[len(waits) // 2]
    edit(artifact, stream, lambda program: without(program, number, wait))
    refused(
        artifact, rf"command {number} \(.+\) .* which command {wait} \(.+\) (reads|writes), and no event orders the t"
    )


def without(program: Program, number: int, wait: int) -> Program:
    """The program without one wait of a command."""
    waits = tuple(other for other in program.commands[number].waits if other != wait)
    return with_command(program, number, waits=waits)


def test_ssram_of_a_byte_less_than_the_program_reaches(artifact: Path) -> None:
    edit(artifact, FIRST, lambda program: program.model_copy(update={"ssram_bytes": program.ssram_bytes - 64}))
    refused(artifact, r"SSRAM from byte \d+ to \d+, of which the program has \d+ bytes")


def test_a_device_of_a_byte_less_than_the_program_needs(artifact: Path) -> None:
    needed = max(read_program(artifact / name / "mod.json").ssram_bytes for name in (FIRST, DECODE))
    path = artifact / "device.json"
    device = json.loads(path.read_bytes())
    for there in (needed, needed - 1):
        device["ssram_bytes"]["value"] = there
        path.write_text(json.dumps(device))
        vouch(artifact, "device.json")
        if there == needed:
            VaccExecutor.load(artifact)
    refused(artifact, f"needs {needed} bytes of SSRAM, a die of this device has {needed - 1}")


@pytest.mark.parametrize("vouched", [False, True])
def test_a_truncated_program(artifact: Path, vouched: bool) -> None:
    path = artifact / FIRST / "mod.json"
    path.write_bytes(path.read_bytes()[:-100])
    if vouched:
        vouch(artifact, f"{FIRST}/mod.json")
    refused(artifact, r"mod\.json: not readable as JSON" if vouched else r"mod\.json: \d+ bytes")


@pytest.mark.parametrize("stream", [FIRST, OTHER, DECODE])
def test_a_rank_that_is_missing(artifact: Path, stream: str) -> None:
    shutil.rmtree(artifact / stream)
    refused(artifact, f"{stream}: the {stream.split('_')[0]} runstream of rank {stream[-1]} of 2 is missing")


def test_a_program_of_another_rank(artifact: Path) -> None:
    shutil.copy(artifact / OTHER / "mod.json", artifact / FIRST / "mod.json")
    vouch(artifact, f"{FIRST}/mod.json")
    refused(artifact, rf"{FIRST}/mod\.json: its rank is 1, the manifest has 0")


def test_an_exchange_that_one_die_leaves_out(artifact: Path) -> None:
    def change(program: Program) -> Program:
        """The last exchange adds half of its bytes."""
        number = max(n for n, command in enumerate(program.commands) if isinstance(command, Collective))
        command = program.commands[number]
        assert isinstance(command, Collective)
        return with_command(program, number, dtype="float16")

    edit(artifact, OTHER, change)
    refused(
        artifact, r"rank 0 has command \d+ \(all_gather\), all_gather of \d+ bytes of float32, where rank 1 has comm"
    )


def test_a_library_without_the_kernels(artifact: Path) -> None:
    shutil.copy(artifact / DECODE / "mod.so", artifact / FIRST / "mod.so")
    vouch(artifact, f"{FIRST}/mod.so")
    refused(artifact, rf"{FIRST}/mod\.so: has no kernel \w+")


def test_parameters_of_the_wrong_length(artifact: Path) -> None:
    path = artifact / FIRST / "mod.params"
    data = path.read_bytes()
    path.unlink()  # it is one file with that of the other stage
    path.write_bytes(data[:-4096])
    vouch(artifact, f"{FIRST}/mod.params")
    refused(
        artifact, rf"{FIRST}/mod\.json: its parameters end at byte {len(data)}, and mod\.params has {len(data) - 4096}"
    )
