"""Programs that are not what the manifest says, or that no die could run, are refused with their file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.vacc_artifacts import PREFILL, VOCAB, program, write_vacc_artifact

from vamc_py.artifact.manifest import DEVICE_FILE, VaccManifest
from vamc_py.artifact.programs import read_programs
from vamc_py.artifact.verify import read_vacc_manifest
from vamc_py.errors import ArtifactError
from vamc_py.runstream.file import write_program
from vamc_py.runstream.program import Program
from vamc_py.runtime.vacc import VaccExecutor


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vacc") / "toy"
    write_vacc_artifact(folder, ranks=2)
    return folder


@pytest.fixture
def artifact(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "toy"))


def manifest_of(folder: Path) -> VaccManifest:
    return read_vacc_manifest(folder)


def test_programs_come_by_stage_and_rank(artifact: Path) -> None:
    programs = read_programs(artifact, manifest_of(artifact))
    assert programs.prefill == (program("prefill", 0, 2), program("prefill", 1, 2))
    assert programs.decode == (program("decode", 0, 2), program("decode", 1, 2))
    assert (programs.device.name, programs.ranks) == ("tiny", 2)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"stage": "decode"}, "its stage is 'decode', the manifest has 'prefill'"),
        ({"rank": 0}, "its rank is 0, the manifest has 1"),
        ({"ranks": 4}, "its number of ranks is 4, the manifest has 2"),
        ({"tokens": 32}, "its number of tokens is 32, the manifest has 16"),
        ({"context": 64}, "its context is 64, the manifest has 48"),
        ({"device": "VA1"}, "its device is 'VA1', the manifest has 'tiny'"),
        ({"registers": {"position": 1, "row": PREFILL, "speed": 2}}, "it has a register speed"),
        ({"registers": {"position": 1, "row": PREFILL - 1}}, "its register row stays below 15, and 16 are wanted"),
        ({"registers": {"position": 1}}, "its register row stays below 1, and 16 are wanted"),
    ],
)
def test_a_program_of_something_else(artifact: Path, changes: dict[str, Any], fault: str) -> None:
    name = "prefill_16_rank1/mod.json"
    write_program(artifact / name, program("prefill", 1, 2).model_copy(update=changes))
    with pytest.raises(ArtifactError, match=rf"{name}: {fault}.*; compile the artifact again"):
        read_programs(artifact, manifest_of(artifact))


def test_a_decode_register_must_reach_the_context(artifact: Path) -> None:
    changed = program("decode", 0, 2).model_copy(update={"registers": {"position": 47, "row": 1}})
    write_program(artifact / "decode_48_rank0/mod.json", changed)
    with pytest.raises(ArtifactError, match="its register position stays below 47, and 48 are wanted"):
        read_programs(artifact, manifest_of(artifact))


def test_another_vocabulary(artifact: Path) -> None:
    manifest = manifest_of(artifact)
    model = manifest.model.model_copy(update={"vocab_size": VOCAB + 1})
    with pytest.raises(ArtifactError, match=r"logits have the shapes \[\(32,\)\], the vocabulary 33 entries"):
        read_programs(artifact, manifest.model_copy(update={"model": model}))


@pytest.mark.parametrize("size", [VOCAB * VOCAB * 2 - 1, VOCAB * VOCAB * 2 + 1])
def test_parameters_of_another_size(artifact: Path, size: int) -> None:
    manifest = manifest_of(artifact)
    name = "decode_48_rank1/mod.params"
    files = {**manifest.files, name: manifest.files[name].model_copy(update={"size": size})}
    with pytest.raises(ArtifactError, match=f"parameters end at byte 2048, and mod.params has {size} bytes"):
        read_programs(artifact, manifest.model_copy(update={"files": files}))


def swapped_tensors(one: Program) -> Program:
    """The cache 64 bytes further on: everything still fits, but it is another place."""
    moved = [
        tensor if tensor.role == "parameter" else tensor.model_copy(update={"offset": tensor.offset + 64})
        for tensor in one.tensors
    ]
    text = one.model_copy(update={"tensors": tuple(moved), "ddr_bytes": one.ddr_bytes + 64}).model_dump(mode="json")
    for command in text["commands"]:
        for side in ("source", "target"):
            if side in command and command[side]["memory"] == "ddr":
                command[side]["offset"] += 64
    return Program.model_validate_json(json.dumps(text))


def with_command(one: Program, number: int, **changes: Any) -> Program:
    commands = list(one.commands)
    commands[number] = commands[number].model_copy(update=changes)
    return one.model_copy(update={"commands": tuple(commands)})


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (swapped_tensors, "rank 0: cache is not the same in prefill and decode"),
        (
            lambda one: with_command(one, 6, dtype="float16"),
            "decode: rank 0 has command 6, .*float16, where rank 1 has",
        ),
        (lambda one: with_command(one, 5, waits=(4,)), "decode of rank 0: .*command 5"),
    ],
    ids=["caches elsewhere", "another exchange", "missing event"],
)
def test_programs_that_are_not_safe_together(artifact: Path, change: Callable[[Program], Program], fault: str) -> None:
    write_program(artifact / "decode_48_rank0/mod.json", change(program("decode", 0, 2)))
    manifest = manifest_of(artifact)
    read_programs(artifact, manifest, check=False)
    with pytest.raises(ArtifactError, match=fault) as refused:
        read_programs(artifact, manifest)
    assert str(refused.value).startswith(f"{artifact}: ")


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"format": 2}'])
def test_text_that_is_no_program(artifact: Path, text: bytes) -> None:
    (artifact / "decode_48_rank0/mod.json").write_bytes(text)
    with pytest.raises(ArtifactError, match=r"decode_48_rank0/mod\.json: .*(again|format 1)"):
        read_programs(artifact, manifest_of(artifact))


@pytest.mark.parametrize(
    ("key", "less", "fault"),
    [("ssram_bytes", 1, "SSRAM"), ("ddr_bytes", 1, "DDR")],
)
def test_a_die_with_one_byte_too_few(artifact: Path, key: str, less: int, fault: str) -> None:
    record = json.loads((artifact / DEVICE_FILE).read_bytes())
    record[key]["value"] = max(getattr(program(stage, 0, 2), key) for stage in ("prefill", "decode"))  # type: ignore[arg-type]
    (artifact / DEVICE_FILE).write_text(json.dumps(record))
    read_programs(artifact, manifest_of(artifact))
    record[key]["value"] -= less
    (artifact / DEVICE_FILE).write_text(json.dumps(record))
    with pytest.raises(ArtifactError, match=rf"prefill of rank 0: needs \d+ bytes of {fault}, a die .* has \d+"):
        read_programs(artifact, manifest_of(artifact))


def test_a_device_of_another_name(artifact: Path) -> None:
    record = json.loads((artifact / DEVICE_FILE).read_bytes())
    (artifact / DEVICE_FILE).write_text(json.dumps({**record, "name": "VA1"}))
    with pytest.raises(ArtifactError, match=r"device\.json: of VA1, the manifest has tiny"):
        read_programs(artifact, manifest_of(artifact))


def test_a_kernel_that_the_module_has_not(artifact: Path) -> None:
    one = program("decode", 1, 2)
    text = one.model_dump_json().replace('"keys_1"', '"keys_2"')
    (artifact / "decode_48_rank1/mod.json").write_bytes(text.encode())
    size = (artifact / "decode_48_rank1/mod.json").stat().st_size
    path = artifact / "manifest.json"
    record = json.loads(path.read_bytes())
    record["files"]["decode_48_rank1/mod.json"]["size"] = size
    path.write_text(json.dumps(record))
    with pytest.raises(ArtifactError, match=r"decode_48_rank1/mod\.so: has no kernel keys_2; compile"):
        VaccExecutor.load(artifact, threads=1, verify=False)
