"""An artifact appears whole or not at all, and what others left or own is respected."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vamc_py.artifact.manifest import Function, Limits, Manifest, ModelFacts, Target
from vamc_py.artifact.write import ArtifactWriter, built_with
from vamc_py.errors import UserError

MANIFEST = Manifest(
    name="tiny",
    target=Target(kind="llvm", mcpu="znver4", features=("avx512f",), dtype="int8"),
    model=ModelFacts(
        architecture="qwen3",
        layers=1,
        hidden_size=4,
        intermediate_size=8,
        heads=1,
        kv_heads=1,
        head_dim=4,
        vocab_size=7,
        tied_embedding=True,
        max_positions=16,
    ),
    limits=Limits(prefill=8, context=16),
    step=Function(name="step", inputs=(), caches=(), outputs=()),
    parameters=(),
    files={},
    built_with={"vamc-py": "0"},
    source={"checkpoint": "c", "config": "d"},
)


def write(folder: Path, files: dict[str, bytes], manifest: Manifest = MANIFEST) -> None:
    with ArtifactWriter(folder) as writer:
        for name, content in files.items():
            writer.directory(str(Path(name).parent))
            writer.path(name).write_bytes(content)
        writer.finish(manifest)


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_manifest_records_every_other_file(tmp_path: Path) -> None:
    files = {"mod.so": b"\x7fELF", "tokenizer/tokenizer.json": b"{}", "empty": b""}
    write(tmp_path / "deep" / "er" / "tiny", files)
    folder = tmp_path / "deep" / "er" / "tiny"
    manifest = Manifest.model_validate_json((folder / "manifest.json").read_text("utf-8"))
    assert manifest == MANIFEST.model_copy(update={"files": manifest.files})
    assert {name: (record.size, record.sha256) for name, record in manifest.files.items()} == {
        name: (len(data), hashlib.sha256(data).hexdigest()) for name, data in files.items()
    }
    assert {name: data for name, data in content(folder).items() if name != "manifest.json"} == files
    assert names(folder.parent) == {"tiny"}


def test_a_known_digest_is_taken_without_reading_the_file_again(tmp_path: Path) -> None:
    with ArtifactWriter(tmp_path / "tiny") as writer:
        writer.path("params.bin").write_bytes(b"1234")
        writer.know_digest("params.bin", "from the stream")
        writer.finish(MANIFEST)
    manifest = Manifest.model_validate_json((tmp_path / "tiny" / "manifest.json").read_text("utf-8"))
    assert manifest.files["params.bin"].sha256 == "from the stream"
    assert manifest.files["params.bin"].size == 4


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    made = []
    for folder, order in ((tmp_path / "a", 1), (tmp_path / "b", -1)):
        pairs = [("x", 1), ("ü", "中"), ("nested", {"b": 1, "a": 2})][::order]
        with ArtifactWriter(folder) as writer:
            for name in ["one.json", "two.json"][::order]:
                writer.write_json(name, dict(pairs))
            writer.finish(MANIFEST)
        made.append(content(folder))
    assert made[0] == made[1]
    assert "中" in made[0]["one.json"].decode("utf-8")


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("older", [False, True])
def test_a_failure_leaves_no_trace_and_an_older_artifact_as_it_was(
    kind: type[BaseException], older: bool, tmp_path: Path
) -> None:
    folder = tmp_path / "tiny"
    if older:
        write(folder, {"mod.so": b"old"})
    before = content(tmp_path)
    with pytest.raises(kind, match="in the middle"), ArtifactWriter(folder) as writer:  # noqa: PT012
        writer.path("mod.so").write_bytes(b"new")
        writer.directory("tokenizer")
        raise kind("in the middle")
    assert content(tmp_path) == before
    assert names(tmp_path) == ({"tiny"} if older else set())


def test_leaving_without_finish_leaves_nothing(tmp_path: Path) -> None:
    with ArtifactWriter(tmp_path / "tiny") as writer:
        writer.path("mod.so").write_bytes(b"x")
        assert not (tmp_path / "tiny").exists()
    assert names(tmp_path) == set()


def test_an_older_artifact_is_replaced_whole(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    write(folder, {"mod.so": b"old", "only/in/the/old": b"1"})
    write(folder, {"mod.so": b"new"})
    assert set(content(folder)) == {"manifest.json", "mod.so"}
    assert (folder / "mod.so").read_bytes() == b"new"
    assert names(tmp_path) == {"tiny"}


def test_an_empty_folder_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    write(tmp_path / "tiny", {"mod.so": b"new"})
    assert (tmp_path / "tiny" / "mod.so").read_bytes() == b"new"


def test_when_the_new_folder_cannot_take_its_place_the_old_one_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tiny"
    write(folder, {"mod.so": b"old"})
    before, rename = content(tmp_path), Path.rename

    def failing(self: Path, target: Path) -> Path:
        if target == folder and not self.name.endswith(".old"):
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="Input/output error"):
        write(folder, {"mod.so": b"new"})
    assert content(tmp_path) == before
    assert names(tmp_path) == {"tiny"}


def test_somebody_elses_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    before = content(tmp_path)
    with pytest.raises(UserError, match=r"thesis: exists and is not an artifact .*set another name"):
        write(tmp_path / "thesis", {"mod.so": b"x"})
    assert content(tmp_path) == before


@pytest.mark.parametrize("linked", [False, True])
def test_a_file_or_a_link_in_the_place_is_not_replaced(linked: bool, tmp_path: Path) -> None:
    place = tmp_path / "tiny"
    if linked:
        write(tmp_path / "elsewhere", {"mod.so": b"old"})
        place.symlink_to(tmp_path / "elsewhere")
    else:
        place.write_text("a file")
    before = content(tmp_path)
    with pytest.raises(UserError, match="tiny: exists and is not an artifact"):
        write(place, {"mod.so": b"x"})
    assert content(tmp_path) == before
    assert place.is_symlink() == linked


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_leftovers_of_dead_processes_go_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    dead, alive = dead_process(), os.getppid()
    leftovers = {
        f".tiny.partial-{dead}-aa": False,
        f".tiny.partial-{dead}-bb.old": False,
        f".tiny.partial-{alive}-aa": True,
        f".tiny.partial-{os.getpid()}-aa": True,
        ".tiny.partial-unknown-aa": True,
        f".other.partial-{dead}-aa": True,  # of another artifact
        f".tiny2.partial-{dead}-aa": True,
    }
    for name in leftovers:
        (tmp_path / name).mkdir()
        (tmp_path / name / "mod.so").write_bytes(b"half")
    write(tmp_path / "tiny", {"mod.so": b"new"})
    assert names(tmp_path) == {name for name, stays in leftovers.items() if stays} | {"tiny"}


@settings(max_examples=30, deadline=None)
@given(name=st.text("ab[]*?!-. ", min_size=1, max_size=6).filter(lambda text: text.strip(".") != ""))
def test_only_leftovers_of_the_very_name_go(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    parent, dead = tmp_path_factory.mktemp("names"), 2**30  # above any process id
    for owner in {name, "a", "b", "ab"}:
        (parent / f".{owner}.partial-{dead}-aa").mkdir()
    write(parent / name, {"mod.so": b"new"})
    assert names(parent) == {f".{owner}.partial-{dead}-aa" for owner in {"a", "b", "ab"} - {name}} | {name}


def test_a_parent_that_cannot_be_made_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match=r"file.*: cannot be written \(.+\); set workspace.path"):
        write(tmp_path / "file" / "tiny", {})


def test_a_parent_that_cannot_be_written_is_a_user_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")  # chmod does not stop root

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UserError, match=r"cannot be written \(Permission denied\); set workspace.path"):
        write(tmp_path / "tiny", {})


def test_a_full_disk_is_a_user_error_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"No space left on device; make room"), ArtifactWriter(tmp_path / "tiny"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert names(tmp_path) == set()


def test_the_builders_versions_are_recorded() -> None:
    versions = built_with()
    assert {"vamc-py", "apache-tvm", "torch"} <= set(versions)
    assert all(versions.values())
