"""Damaged, altered and foreign artifacts are refused in a sentence."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.artifacts import write_artifact, write_manifest

from vamc_py.artifact import verify as checks
from vamc_py.artifact.manifest import MANIFEST_FILE, FileRecord, Manifest, Target
from vamc_py.artifact.verify import MARKER_FILE, bytes_to_verify, check_for_load, verify
from vamc_py.errors import ArtifactError


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pristine")
    write_artifact(folder)
    return folder


@pytest.fixture
def artifact(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "toy"))


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were hashed, as it happens."""
    names: list[str] = []
    original = checks._hash

    def record(path: Path, offset: int, size: int, report: Callable[[int], None]) -> str:
        names.append(path.name)
        return original(path, offset, size, report)

    monkeypatch.setattr(checks, "_hash", record)
    return names


def edit_manifest(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = folder / MANIFEST_FILE
    record = json.loads(path.read_bytes())
    edit(record)
    path.write_text(json.dumps(record))


def flip_byte(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def test_good_artifact_passes(artifact: Path) -> None:
    assert check_for_load(artifact) == verify(artifact) == Manifest.model_validate_json(
        (artifact / MANIFEST_FILE).read_bytes()
    )  # fmt: skip


def test_first_load_hashes_and_the_second_does_not(artifact: Path, hashed: list[str]) -> None:
    manifest = check_for_load(artifact)
    assert sorted(hashed) == sorted(Path(name).name for name in manifest.files)
    hashed.clear()
    check_for_load(artifact)
    assert hashed == []
    check_for_load(artifact, hashes=True)
    assert hashed


def test_unhashed_load_leaves_no_marker(artifact: Path) -> None:
    check_for_load(artifact, hashes=False)
    assert not (artifact / MARKER_FILE).exists()


@pytest.mark.parametrize("name", ["params.bin", "tokenizer/tokenizer.json", MANIFEST_FILE])
def test_touched_file_is_hashed_again(artifact: Path, hashed: list[str], name: str) -> None:
    check_for_load(artifact)
    hashed.clear()
    if name == MANIFEST_FILE:
        edit_manifest(artifact, lambda record: record.update(name="other"))
    else:
        os.utime(artifact / name, ns=(1, 1))
    check_for_load(artifact)
    assert hashed


@pytest.mark.parametrize("marker", ["", "{", "[]", "null"])
def test_broken_marker_is_no_marker(artifact: Path, hashed: list[str], marker: str) -> None:
    (artifact / MARKER_FILE).write_text(marker)
    check_for_load(artifact)
    assert hashed


def test_unwritable_folder_loads(artifact: Path, hashed: list[str]) -> None:
    (artifact / MARKER_FILE).mkdir()  # as root, permissions would not stop the write
    check_for_load(artifact)
    check_for_load(artifact)
    assert hashed.count("params.bin") == 2


def test_folder_without_manifest(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no manifest\.json here"):
        check_for_load(tmp_path)


@pytest.mark.parametrize("text", ["", "{", '{"format_version": 1', "\x00", "\ud800"])
def test_manifest_that_is_no_json(artifact: Path, text: str) -> None:
    (artifact / MANIFEST_FILE).write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ArtifactError, match="not readable as JSON"):
        check_for_load(artifact)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_other_format_version(artifact: Path, version: object) -> None:
    def edit(record: dict[str, Any]) -> None:
        record["format_version"] = version
        record["field_of_the_future"] = {}

    edit_manifest(artifact, edit)
    with pytest.raises(ArtifactError, match=rf"artifact format {version!r}, this vamc-py reads format 1"):
        check_for_load(artifact)


def test_manifest_that_is_a_list(artifact: Path) -> None:
    (artifact / MANIFEST_FILE).write_text("[]")
    with pytest.raises(ArtifactError, match="artifact format None"):
        check_for_load(artifact)


@pytest.mark.parametrize(
    ("edit", "where"),
    [
        (lambda record: record.pop("limits"), "limits: Field required"),
        (lambda record: record["model"].update(layers="many"), "model.layers: Input should be a valid integer"),
        (lambda record: record.update(colour=1), "colour: Extra inputs"),
    ],
)
def test_manifest_with_a_wrong_field(artifact: Path, edit: Callable[[dict[str, Any]], object], where: str) -> None:
    edit_manifest(artifact, edit)
    with pytest.raises(ArtifactError, match=where):
        check_for_load(artifact)


@pytest.mark.parametrize("name", ["mod.so", "params.bin", "config.yaml", "tokenizer/tokenizer.json"])
class TestFiles:
    """Each fault of a file is seen by the first load and by verify, and a size also by later loads."""

    def test_missing(self, artifact: Path, name: str) -> None:
        check_for_load(artifact)
        (artifact / name).unlink()
        for check in (check_for_load, verify):
            with pytest.raises(ArtifactError, match=f"{name}: the file is missing"):
                check(artifact)

    @pytest.mark.parametrize("change", [-1, 1])
    def test_other_size(self, artifact: Path, name: str, change: int) -> None:
        check_for_load(artifact)
        path = artifact / name
        os.truncate(path, path.stat().st_size + change)
        for check in (check_for_load, verify):
            with pytest.raises(ArtifactError, match=rf"{name}: \d+ bytes instead of \d+: truncated or altered"):
                check(artifact)

    def test_altered(self, artifact: Path, name: str) -> None:
        flip_byte(artifact / name, 3)
        for check in (check_for_load, verify):
            with pytest.raises(ArtifactError, match=name):
                check(artifact)
        assert not (artifact / MARKER_FILE).exists()


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_verify_sees_any_altered_byte(tmp_path_factory: pytest.TempPathFactory, pristine: Path, data: Any) -> None:
    folder = Path(shutil.copytree(pristine, tmp_path_factory.mktemp("altered") / "toy"))
    files = check_for_load(folder).files
    name = data.draw(st.sampled_from(sorted(files)))
    flip_byte(folder / name, data.draw(st.integers(0, files[name].size - 1)))
    with pytest.raises(ArtifactError, match=name):
        verify(folder)


def test_verify_names_the_altered_parameter(artifact: Path) -> None:
    parameter = check_for_load(artifact).parameters[1]
    flip_byte(artifact / "params.bin", parameter.offset)
    with pytest.raises(ArtifactError, match=f"parameter {parameter.name} is altered"):
        verify(artifact)


def test_verify_names_unexpected_files(artifact: Path) -> None:
    check_for_load(artifact)  # leaves the marker, which is expected
    (artifact / "tokenizer" / "notes.txt").write_text("mine")
    (artifact / "core").write_text("")
    with pytest.raises(ArtifactError, match=r"core, tokenizer/notes\.txt: not part of the artifact"):
        verify(artifact)
    check_for_load(artifact)


def test_verify_reports_every_byte(artifact: Path) -> None:
    seen: list[tuple[str, int]] = []
    manifest = verify(artifact, lambda name, size: seen.append((name, size)))
    assert sum(size for _, size in seen) == bytes_to_verify(manifest)
    assert {name for name, _ in seen} == {*manifest.files, *(item.name for item in manifest.parameters)}


def test_missing_cpu_feature(artifact: Path) -> None:
    target = Target(kind="llvm", mcpu="zen99", features=("sse2", "avx9000"), dtype="int8")
    write_manifest(artifact, verify(artifact).model_copy(update={"target": target}))
    with pytest.raises(
        ArtifactError, match=r"this machine's CPU lacks avx9000, which the artifact \(compiled for zen99"
    ):
        check_for_load(artifact)
    verify(artifact)  # a build machine need not run what it ships


def test_foreign_target(artifact: Path) -> None:
    target = Target(kind="cuda", mcpu="", features=(), dtype="fp16")
    write_manifest(artifact, verify(artifact).model_copy(update={"target": target}))
    with pytest.raises(ArtifactError, match="compiled for cuda; this runtime runs llvm"):
        check_for_load(artifact)


@pytest.mark.parametrize("name", ["mod.so", "params.bin"])
def test_manifest_that_does_not_list_a_needed_file(artifact: Path, name: str) -> None:
    edit_manifest(artifact, lambda record: record["files"].pop(name))
    with pytest.raises(ArtifactError, match=f"does not list {name}"):
        check_for_load(artifact)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "tokenizer/../../secret"])
def test_path_outside_the_folder(artifact: Path, name: str) -> None:
    record = FileRecord(size=1, sha256="")
    edit_manifest(artifact, lambda manifest: manifest["files"].update({name: record.model_dump()}))
    with pytest.raises(ArtifactError, match="lies outside the artifact"):
        check_for_load(artifact)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"dtype": "float15"}, "dtype float15 is not one"),
        ({"size": 79}, "79 bytes, its shape"),
        ({"shape": [80]}, "80 bytes, its shape"),
        ({"shape": [-4, -10]}, "negative extent"),
        ({"offset": 8}, "not a multiple of 64"),
        ({"offset": -64}, "lie outside"),
        ({"offset": 1 << 20}, "lie outside"),
    ],
)
def test_parameter_that_does_not_lie_in_the_file(artifact: Path, change: dict[str, Any], fault: str) -> None:
    edit_manifest(artifact, lambda record: record["parameters"][1].update(change))
    with pytest.raises(ArtifactError, match=f"parameter scale: .*{fault}"):
        check_for_load(artifact)
