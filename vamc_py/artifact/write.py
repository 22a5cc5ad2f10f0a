"""Writes an artifact beside its place and renames it when it is whole."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

from vamc_py.artifact.manifest import IR_TIMES_FILE, MANIFEST_FILE, FileRecord, ManifestBase
from vamc_py.errors import UserError

_PARTIAL = ".partial-"  # what a killed compile leaves: never a folder that the runtime would take
_UNRECORDED = (MANIFEST_FILE, IR_TIMES_FILE)
# What systems say that have no hard links, or no more of them for a file.
_NO_LINKS = (errno.EPERM, errno.EMLINK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV)
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What decides the bytes of mod.so and params.bin.
_BUILDERS = ("vamc-py", "apache-tvm", "apache-tvm-ffi", "torch", "numpy")


def built_with() -> dict[str, str]:
    """Versions of what builds the artifact, for the manifest."""
    return {name: metadata.version(name) for name in _BUILDERS}


class ArtifactWriter:
    """A context that makes ``<folder>`` appear whole on ``finish`` or ``put_in_place``, and not at all otherwise.

    ``marker`` is the file by which a folder of the kind is known: no other one that has content is replaced.
    """

    def __init__(self, folder: Path, marker: str = MANIFEST_FILE) -> None:
        self.folder = folder
        self._marker = marker
        own = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._partial = folder.with_name(f".{folder.name}{_PARTIAL}{own}")
        self._replaced = folder.with_name(f"{self._partial.name}.old")  # an older artifact of the name, for a moment
        self._digests: dict[str, str] = {}

    def __enter__(self) -> ArtifactWriter:
        parent = self.folder.parent
        try:
            _check_replaceable(self.folder, self._marker)
            parent.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(self.folder)
            self._partial.mkdir()
        except OSError as error:
            raise UserError(
                f"{parent}: cannot be written ({error.strerror}); set workspace.path to a folder that can"
            ) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._partial, ignore_errors=True)
        if self.folder.exists():
            shutil.rmtree(self._replaced, ignore_errors=True)
        if isinstance(value, OSError) and value.errno in _NO_SPACE:
            raise UserError(
                f"{self.folder.parent}: {value.strerror}; make room, or set another workspace.path"
            ) from value

    def path(self, name: str) -> Path:
        """Where to write a file of the artifact now."""
        return self._partial / name

    def directory(self, name: str) -> Path:
        """A folder of the artifact, made if it is not there."""
        path = self._partial / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def link(self, name: str, other: str) -> None:
        """The file ``name`` under another name, too: a hard link, or a copy where the file system has none.

        ``name`` must be whole: its bytes stay as they are. Both folders must be there.
        """
        try:
            self.path(other).hardlink_to(self.path(name))
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            shutil.copyfile(self.path(name), self.path(other))
        if name in self._digests:
            self.know_digest(other, self._digests[name])

    def write_json(self, name: str, value: Any) -> None:
        """A JSON file with sorted keys, so that equal content gives equal bytes."""
        self.path(name).write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")

    def know_digest(self, name: str, sha256: str) -> None:
        """The hash of a file that was computed while it was written, so that it need not be read again."""
        self._digests[name] = sha256

    def finish(self, manifest: ManifestBase) -> None:
        """``complete``, then puts the folder in its place; an old one goes."""
        self.complete(manifest)
        self.put_in_place()

    def put_in_place(self) -> None:
        """Renames the folder to its place; an old one goes."""
        try:
            if self.folder.exists():
                self.folder.rename(self._replaced)
            self._partial.rename(self.folder)
        except BaseException:
            if self._replaced.exists() and not self.folder.exists():
                self._replaced.rename(self.folder)
            raise

    def complete(self, manifest: ManifestBase) -> Path:
        """Writes the manifest with the record of every file. The hidden folder is an artifact then, and can be loaded
        as long as nothing is written into it (``verify=False``: to remember a check is to write)."""
        files = sorted(path for path in self._partial.rglob("*") if path.is_file())
        names = {path.relative_to(self._partial).as_posix(): path for path in files}
        records = self._records({name: path for name, path in names.items() if name not in _UNRECORDED})
        whole = manifest.model_copy(update={"files": records})
        self.path(MANIFEST_FILE).write_text(whole.model_dump_json(indent=1) + "\n", "utf-8")
        return self._partial

    def _records(self, paths: dict[str, Path]) -> dict[str, FileRecord]:
        """Size and hash of each file; one of several names is read once."""
        digests: dict[tuple[int, int], str] = {}
        records = {}
        for name, path in paths.items():
            stat = path.stat()
            one = (stat.st_dev, stat.st_ino)
            if one not in digests:
                digests[one] = self._digests.get(name) or _digest(path)
            records[name] = FileRecord(size=stat.st_size, sha256=digests[one])
        return records


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_replaceable(folder: Path, marker: str) -> None:
    """UserError for what is no folder of ours: replacing it would delete somebody's files."""
    if not folder.exists() and not folder.is_symlink():
        return
    ours = folder.is_dir() and not folder.is_symlink()
    if not ours or (any(folder.iterdir()) and not (folder / marker).is_file()):
        kind = "an artifact" if marker == MANIFEST_FILE else "what this command writes"
        raise UserError(
            f"{folder}: exists and is not {kind} (a folder, not a link, with {marker}); "
            "move it away, or set another name or workspace.path"
        )


def _remove_leftovers(folder: Path) -> None:
    """Removes what compiles of the same artifact left that were killed and whose process is gone."""
    for path in folder.parent.glob(f".{_escaped(folder.name)}{_PARTIAL}*"):
        owner = path.name.rsplit(_PARTIAL, 1)[1].split("-", 1)[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(path, ignore_errors=True)


def _escaped(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
