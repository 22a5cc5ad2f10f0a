"""Checks of an artifact folder: that it is what the compiler wrote and fits this runtime and this machine.

Sizes, layout and CPU features are checked at every load, since a wrong one ends in a crash of compiled code. Hashes are
checked at the first load only, as reading all parameters takes longer than mapping them; the marker remembers it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from vamc_py.artifact.cpu import missing_features
from vamc_py.artifact.manifest import (
    DEVICE_FILE,
    FORMAT_VERSION,
    IR_TIMES_FILE,
    MANIFEST_FILE,
    MODULE_FILE,
    PARAMETER_ALIGNMENT,
    PARAMETERS_FILE,
    PROGRAM_FILE,
    RUNSTREAM_PARAMETERS_FILE,
    Manifest,
    ManifestBase,
    Parameter,
    Target,
    VaccManifest,
)
from vamc_py.errors import ArtifactError

MARKER_FILE = ".verified"  # outside the hashed content: what was checked, and the state of the files then
VACC = "vacc"
TARGET_KINDS = ("llvm", VACC)

_CHUNK = 1 << 20  # bytes; small enough to stay in the cache between reading and hashing
_ITEM_SIZE = {
    "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4, "int64": 8,
    "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8,
}  # fmt: skip

Progress = Callable[[str, int], None]  # (what is being read, bytes just read)


def _silent(_name: str, _size: int) -> None:
    pass


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the artifact in ``folder``, for what works with compiled code of a real machine.

    ArtifactError when there is none that this version reads, or for the vacc target.
    """
    manifest = read_any_manifest(folder)
    if isinstance(manifest, VaccManifest):
        raise ArtifactError(
            f"{folder}: compiled for vacc, a device model, which this command does not serve; `vamc-py run` runs it in "
            "simulation, `vamc-py simulate --trace FILE` estimates how fast the device would be and shows what waits"
        )
    return manifest


def read_vacc_manifest(folder: Path) -> VaccManifest:
    """The manifest of an artifact of the vacc target; ArtifactError when there is none that this version reads."""
    manifest = read_any_manifest(folder)
    if not isinstance(manifest, VaccManifest):
        raise ArtifactError(f"{folder}: compiled for {manifest.target.kind}; give an artifact of the vacc target")
    return manifest


def read_any_manifest(folder: Path) -> Manifest | VaccManifest:
    """The manifest of an artifact of any target; ArtifactError when there is none that this version reads."""
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise ArtifactError(f"{folder}: no {MANIFEST_FILE} here; give the folder that `vamc-py compile` wrote")
    try:
        record = json.loads(path.read_bytes())
    except ValueError as error:
        raise ArtifactError(f"{path}: not readable as JSON ({error}); compile the artifact again") from error
    version = record.get("format_version") if isinstance(record, dict) else None
    # The version first: another one may have quite other fields, and its number is what helps the reader.
    if version != FORMAT_VERSION:
        raise ArtifactError(
            f"{path}: artifact format {version!r}, this vamc-py reads format {FORMAT_VERSION}; "
            "compile the artifact again with this version"
        )
    target = record.get("target")
    kind = VaccManifest if isinstance(target, dict) and target.get("kind") == VACC else Manifest
    try:
        return kind.model_validate(record)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise ArtifactError(f"{path}: {where}: {fault['msg']}; compile the artifact again") from error


def check_target(target: Target) -> None:
    """ArtifactError unless this runtime runs the target's kind and this machine's CPU has its features."""
    if target.kind not in TARGET_KINDS:
        raise ArtifactError(f"the artifact is compiled for {target.kind}; this runtime runs {', '.join(TARGET_KINDS)}")
    if missing := missing_features(target.features):
        raise ArtifactError(
            f"this machine's CPU lacks {', '.join(missing)}, which the artifact (compiled for {target.mcpu}) needs; "
            "compile it on this machine, or with backend.target naming a CPU without them, such as x86-64-v3"
        )


def check_sizes(folder: Path, manifest: ManifestBase) -> None:
    """ArtifactError unless every file of the manifest is there with its size."""
    for name in _needed(folder, manifest):
        if name not in manifest.files:
            raise ArtifactError(f"{folder / MANIFEST_FILE}: does not list {name}; compile the artifact again")
    for name, record in manifest.files.items():
        path = _inside(folder, name)
        if not path.is_file():
            raise ArtifactError(f"{path}: the file is missing; copy or compile the artifact again")
        if (size := path.stat().st_size) != record.size:
            raise ArtifactError(
                f"{path}: {size} bytes instead of {record.size}: truncated or altered; copy or compile it again"
            )


def _needed(folder: Path, manifest: ManifestBase) -> list[str]:
    """Files without which the artifact is none. ArtifactError where a rank's whole folder is not there."""
    if not isinstance(manifest, VaccManifest):
        return [MODULE_FILE, PARAMETERS_FILE]
    streams = manifest.runstreams
    for stage, names in (("prefill", streams.prefill), ("decode", streams.decode)):
        for rank, name in enumerate(names):
            if not _inside(folder, name).is_dir():
                raise ArtifactError(
                    f"{folder / name}: the {stage} runstream of rank {rank} of {streams.ranks} is missing; "
                    "copy or compile the artifact again"
                )
    parts = (MODULE_FILE, PROGRAM_FILE, RUNSTREAM_PARAMETERS_FILE)
    return [DEVICE_FILE, *(f"{name}/{part}" for name in streams.folders for part in parts)]


def _inside(folder: Path, name: str) -> Path:
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts:
        raise ArtifactError(f"{folder / MANIFEST_FILE}: names {name!r}, which lies outside the artifact")
    return folder / pure


def check_layout(manifest: Manifest) -> None:
    """ArtifactError unless every parameter lies aligned inside ``params.bin`` with the size of its shape."""
    end = manifest.files[PARAMETERS_FILE].size
    for parameter in manifest.parameters:
        if fault := _layout_fault(parameter, end):
            raise ArtifactError(f"{MANIFEST_FILE}: parameter {parameter.name}: {fault}; compile the artifact again")


def _layout_fault(parameter: Parameter, end: int) -> str | None:
    if parameter.dtype not in _ITEM_SIZE:
        return f"dtype {parameter.dtype} is not one this runtime knows"
    if any(extent < 0 for extent in parameter.shape):
        return f"negative extent in shape {parameter.shape}"
    wanted = math.prod(parameter.shape) * _ITEM_SIZE[parameter.dtype]
    if parameter.size != wanted:
        return f"{parameter.size} bytes, its shape {parameter.shape} of {parameter.dtype} takes {wanted}"
    if parameter.offset % PARAMETER_ALIGNMENT:
        return f"offset {parameter.offset} is not a multiple of {PARAMETER_ALIGNMENT}"
    if parameter.offset < 0 or parameter.offset + parameter.size > end:
        return f"bytes {parameter.offset} to {parameter.offset + parameter.size} lie outside {PARAMETERS_FILE} ({end})"
    return None


def _hash(path: Path, offset: int, size: int, report: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(offset)
        while size and (chunk := file.read(min(size, _CHUNK))):
            digest.update(chunk)
            size -= len(chunk)
            report(len(chunk))
    return digest.hexdigest()


def check_hashes(folder: Path, manifest: ManifestBase, progress: Progress = _silent) -> None:
    """ArtifactError unless every file has the hash of the manifest. One of several names (hard links) is read once."""
    known: dict[tuple[int, int], str] = {}
    for name, record in manifest.files.items():
        path = _inside(folder, name)
        stat = path.stat()
        one = (stat.st_dev, stat.st_ino)
        if one in known:
            progress(name, record.size)
        else:
            known[one] = _hash(path, 0, record.size, lambda size, name=name: progress(name, size))  # type: ignore[misc]
        if known[one] != record.sha256:
            raise ArtifactError(f"{path}: its content is not what was compiled (sha256); copy or compile it again")


def check_parameters(folder: Path, manifest: Manifest, progress: Progress = _silent) -> None:
    """ArtifactError, naming the parameter, unless each parameter's bytes have the hash of the manifest."""
    path = folder / PARAMETERS_FILE
    for item in manifest.parameters:
        if _hash(path, item.offset, item.size, lambda size, name=item.name: progress(name, size)) != item.sha256:  # type: ignore[misc]
            raise ArtifactError(f"{path}: parameter {item.name} is altered (sha256); copy or compile it again")


def unexpected_files(folder: Path, manifest: ManifestBase) -> list[str]:
    """Paths of files below ``folder`` that the manifest does not name, sorted."""
    return sorted(set(_files(folder)) - set(manifest.files) - {MANIFEST_FILE, MARKER_FILE, IR_TIMES_FILE})


def _files(folder: Path) -> Iterator[str]:
    return (path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def check_for_load(folder: Path, *, hashes: bool | None = None) -> Manifest:
    """The manifest, after the checks that a load needs; ArtifactError for the vacc target, too.

    ``hashes``: True checks them, False does not, None checks them unless an earlier load of these very files did.
    """
    manifest = read_manifest(folder)
    check_target(manifest.target)
    check_sizes(folder, manifest)
    check_layout(manifest)
    _check_hashes_once(folder, manifest, hashes)
    return manifest


def check_vacc_for_load(folder: Path, *, hashes: bool | None = None) -> VaccManifest:
    """``check_for_load`` for an artifact of the vacc target. What its programs say is not looked at."""
    manifest = read_vacc_manifest(folder)
    check_target(manifest.target)
    check_sizes(folder, manifest)
    _check_hashes_once(folder, manifest, hashes)
    return manifest


def _check_hashes_once(folder: Path, manifest: ManifestBase, hashes: bool | None) -> None:
    if hashes is None:
        hashes = not _marked(folder, manifest)
    if hashes:
        check_hashes(folder, manifest)
        mark(folder, manifest)


def verify(folder: Path, progress: Progress = _silent) -> Manifest | VaccManifest:
    """The manifest, after every check but that of the CPU: an artifact may be verified on a machine that cannot run it.

    ``progress`` is called with all bytes of all files, then with all bytes of all parameters that the manifest names.
    """
    manifest = read_any_manifest(folder)
    check_sizes(folder, manifest)
    if isinstance(manifest, Manifest):
        check_layout(manifest)
        # Parameters first: their message names the parameter, that of the file could not.
        check_parameters(folder, manifest, progress)
    check_hashes(folder, manifest, progress)
    if extra := unexpected_files(folder, manifest):
        raise ArtifactError(f"{folder}: {', '.join(extra)}: not part of the artifact; remove or compile it again")
    mark(folder, manifest)
    return manifest


def _state(folder: Path, manifest: ManifestBase) -> dict[str, object]:
    """What must be unchanged for an earlier check of the hashes to hold."""
    stats = {name: _inside(folder, name).stat() for name in manifest.files}
    return {
        "manifest": hashlib.sha256((folder / MANIFEST_FILE).read_bytes()).hexdigest(),
        "files": {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()},
    }


def mark(folder: Path, manifest: ManifestBase) -> None:
    """Remember that the files' hashes were right; where the folder is read-only, the next load checks again."""
    try:
        (folder / MARKER_FILE).write_text(json.dumps(_state(folder, manifest)))
    except OSError:
        return


def _marked(folder: Path, manifest: ManifestBase) -> bool:
    try:
        return bool(json.loads((folder / MARKER_FILE).read_bytes()) == _state(folder, manifest))
    except (OSError, ValueError):
        return False


def bytes_to_verify(manifest: ManifestBase) -> int:
    """Bytes that ``verify`` reports to its ``progress``."""
    parameters = manifest.parameters if isinstance(manifest, Manifest) else ()
    return sum(record.size for record in manifest.files.values()) + sum(parameter.size for parameter in parameters)
