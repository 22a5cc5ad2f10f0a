"""Artifacts of the vacc target: the manifest's round trip, files of several names, and what is missing or altered."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.artifacts import write_artifact
from support.vacc_artifacts import write_vacc_artifact

from vamc_py.artifact import verify as checks
from vamc_py.artifact.manifest import MANIFEST_FILE, Limits, Runstreams, VaccManifest
from vamc_py.artifact.verify import (
    MARKER_FILE,
    bytes_to_verify,
    check_for_load,
    check_vacc_for_load,
    read_any_manifest,
    read_manifest,
    read_vacc_manifest,
    verify,
)
from vamc_py.artifact.write import ArtifactWriter
from vamc_py.errors import ArtifactError

PARAMETERS = [f"{stage}_rank{rank}/mod.params" for stage in ("prefill_16", "decode_48") for rank in (0, 1)]
FILES = ["prefill_16_rank1/mod.so", "decode_48_rank0/mod.json", "prefill_16_rank0/mod.params", "device.json"]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vacc") / "toy"
    write_vacc_artifact(folder, ranks=2)
    return folder


@pytest.fixture
def artifact(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "toy"))


def edit_manifest(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = folder / MANIFEST_FILE
    record = json.loads(path.read_bytes())
    edit(record)
    path.write_text(json.dumps(record))


def test_a_manifest_comes_back_as_it_was_written(artifact: Path) -> None:
    manifest = read_any_manifest(artifact)
    assert isinstance(manifest, VaccManifest)
    assert VaccManifest.model_validate_json(manifest.model_dump_json()) == manifest
    assert manifest == verify(artifact) == check_vacc_for_load(artifact) == read_vacc_manifest(artifact)
    assert manifest.runstreams == Runstreams(
        device="tiny",
        prefill=("prefill_16_rank0", "prefill_16_rank1"),
        decode=("decode_48_rank0", "decode_48_rank1"),
    )
    assert manifest.runstreams.ranks == 2
    assert "device model" in json.loads((artifact / MANIFEST_FILE).read_bytes())["notice"]
    assert {*FILES, *PARAMETERS, "config.yaml", "tokenizer/tokenizer.json"} < set(manifest.files)


def test_each_target_is_refused_where_the_other_is_wanted(artifact: Path, tmp_path: Path) -> None:
    for read in (read_manifest, check_for_load):
        with pytest.raises(
            ArtifactError, match=r"compiled for vacc, a device model, which .*`vamc-py simulate --trace FILE`"
        ):
            read(artifact)
    write_artifact(tmp_path / "llvm")
    for read_vacc in (read_vacc_manifest, check_vacc_for_load):
        with pytest.raises(ArtifactError, match="compiled for llvm; give an artifact of the vacc target"):
            read_vacc(tmp_path / "llvm")


@pytest.mark.parametrize(
    ("edit", "fault"),
    [
        (lambda record: record.pop("runstreams"), "runstreams: Field required"),
        (lambda record: record["runstreams"]["decode"].pop(), "as many folders of prefill as of decode"),
        (lambda record: record["runstreams"].update(prefill=[], decode=[]), "at least one"),
        (lambda record: record["runstreams"].update(prefill=["..", "/"]), r"names '\.\.', which lies outside"),
        (lambda record: record["files"].pop("decode_48_rank1/mod.json"), "does not list decode_48_rank1/mod.json"),
        (lambda record: record["files"].pop("device.json"), "does not list device.json"),
        (lambda record: record["target"].update(features=["avx9000"]), "CPU lacks avx9000, .*compiled for x86-64-v3"),
    ],
)
def test_a_wrong_manifest_is_refused(artifact: Path, edit: Callable[[dict[str, Any]], object], fault: str) -> None:
    edit_manifest(artifact, edit)
    with pytest.raises(ArtifactError, match=fault):
        check_vacc_for_load(artifact)


@pytest.mark.parametrize("stage", ["prefill_16", "decode_48"])
def test_a_rank_whose_folder_is_missing_is_named(artifact: Path, stage: str) -> None:
    shutil.rmtree(artifact / f"{stage}_rank1")
    for check in (check_vacc_for_load, verify):
        with pytest.raises(ArtifactError, match=rf"the {stage[:-3]} runstream of rank 1 of 2 is missing"):
            check(artifact)


@pytest.mark.parametrize("name", FILES)
class TestFiles:
    """Each fault of a file is seen by the first load and by verify, and a size also by later loads."""

    def test_missing(self, artifact: Path, name: str) -> None:
        check_vacc_for_load(artifact)
        (artifact / name).unlink()
        for check in (check_vacc_for_load, verify):
            with pytest.raises(ArtifactError, match=f"{name}: the file is missing"):
                check(artifact)

    def test_other_size(self, artifact: Path, name: str) -> None:
        check_vacc_for_load(artifact)
        os.truncate(artifact / name, (artifact / name).stat().st_size - 1)
        for check in (check_vacc_for_load, verify):
            with pytest.raises(ArtifactError, match=rf"{name}: \d+ bytes instead of \d+"):
                check(artifact)

    def test_altered(self, artifact: Path, name: str) -> None:
        content = bytearray((artifact / name).read_bytes())
        content[len(content) // 2] ^= 1
        (artifact / name).write_bytes(content)
        for check in (check_vacc_for_load, verify):
            with pytest.raises(ArtifactError, match=f"{name}: its content is not what was compiled"):
                check(artifact)
        assert not (artifact / MARKER_FILE).exists()


def test_a_file_of_two_names_is_one_and_hashed_once(pristine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for rank in (0, 1):
        names = [pristine / f"{stage}_rank{rank}" / "mod.params" for stage in ("prefill_16", "decode_48")]
        assert names[0].samefile(names[1])
    hashed = []
    original = checks._hash

    def record(path: Path, offset: int, size: int, report: Callable[[int], None]) -> str:
        hashed.append(path.relative_to(pristine).as_posix())
        return original(path, offset, size, report)

    monkeypatch.setattr(checks, "_hash", record)
    seen: list[tuple[str, int]] = []
    manifest = verify(pristine, lambda name, size: seen.append((name, size)))
    assert sum(name.endswith("mod.params") for name in hashed) == 2
    assert len(hashed) == len(manifest.files) - 2
    assert sum(size for _, size in seen) == bytes_to_verify(manifest)
    assert {name for name, _ in seen} == set(manifest.files)


def test_a_copy_in_which_the_names_have_parted_is_checked_by_each(artifact: Path) -> None:
    assert not (artifact / PARAMETERS[0]).samefile(artifact / PARAMETERS[2])  # copytree copies
    verify(artifact)
    path = artifact / PARAMETERS[2]
    path.write_bytes(b"\1" + path.read_bytes()[1:])
    with pytest.raises(ArtifactError, match=r"decode_48_rank0/mod\.params: its content"):
        verify(artifact)


def test_without_hard_links_a_copy_takes_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    write_vacc_artifact(tmp_path / "toy")
    manifest = verify(tmp_path / "toy")
    names = [f"{stage}_rank0/mod.params" for stage in ("prefill_16", "decode_48")]
    assert not (tmp_path / "toy" / names[0]).samefile(tmp_path / "toy" / names[1])
    assert manifest.files[names[0]] == manifest.files[names[1]]


def test_a_link_that_fails_for_another_reason_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), ArtifactWriter(tmp_path / "toy") as writer:
        writer.link("absent", "other")
    assert list(tmp_path.iterdir()) == []


def test_a_known_digest_goes_along_with_a_link(tmp_path: Path, pristine: Path) -> None:
    with ArtifactWriter(tmp_path / "toy") as writer:
        writer.path("a").write_bytes(b"1234")
        writer.know_digest("a", "from the stream")
        writer.link("a", "b")
        writer.finish(read_vacc_manifest(pristine))
    files = read_vacc_manifest(tmp_path / "toy").files
    assert {name: (one.size, one.sha256) for name, one in files.items()} == {
        "a": (4, "from the stream"),
        "b": (4, "from the stream"),
    }


def test_names_of_folders_say_stage_length_and_rank() -> None:
    named = Runstreams.named("VA16", Limits(prefill=1024, context=2048), 4)
    assert named.prefill[3] == "prefill_1024_rank3"
    assert named.decode[0] == "decode_2048_rank0"
    assert named.folders == (*named.prefill, *named.decode)


def test_an_llvm_manifest_of_before_there_was_vacc_loads(tmp_path: Path) -> None:
    record = {
        "format_version": 1,
        "name": "old",
        "target": {"kind": "llvm", "mcpu": "znver4", "features": ["avx512f"], "dtype": "int8"},
        "model": {
            "architecture": "qwen3", "layers": 1, "hidden_size": 4, "intermediate_size": 8, "heads": 1, "kv_heads": 1,
            "head_dim": 4, "vocab_size": 7, "tied_embedding": True, "max_positions": 16,
        },
        "limits": {"prefill": 8, "context": 16},
        "step": {"name": "step", "inputs": [], "caches": [], "outputs": []},
        "one_slot_a_step": True,
        "activation": "bf16",
        "wide_rows": 24,
        "parameters": [{"name": "w", "dtype": "int8", "shape": [2, 2], "offset": 0, "size": 4, "sha256": ""}],
        "files": {"mod.so": {"size": 1, "sha256": ""}},
        "built_with": {"vamc-py": "0"},
        "source": {"checkpoint": "c"},
        "accepted": None,
        "slow_operators": ["a sentence"],
    }  # fmt: skip
    (tmp_path / MANIFEST_FILE).write_text(json.dumps(record))
    manifest = read_manifest(tmp_path)
    assert json.loads(manifest.model_dump_json()) == record
