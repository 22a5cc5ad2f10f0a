"""A checkpoint with some of its tensors replaced by those of a calibration."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from vamc_py.checkpoint import Checkpoint
from vamc_py.checkpoint.jsonfile import read_json_object
from vamc_py.checkpoint.safetensors_file import SafetensorsFile
from vamc_py.errors import CheckpointError
from vamc_py.weights.formats import SCALE, ZERO, WeightFormat

INDEX = "calibration.json"


class Overlay(Checkpoint):
    """A checkpoint in which the tensors of some safetensors files stand before its own."""

    def __init__(
        self, base: Checkpoint, files: Sequence[Path], formats: Mapping[str, WeightFormat], identity: str
    ) -> None:
        """``formats`` are those of the weights that the files have quantized; ``identity`` says what is in the files.

        CheckpointError for a file that is damaged or lacks a tensor.
        """
        self.base = base
        self.path, self.config, self.config_file = base.path, base.config, base.config_file
        self.generation_config = base.generation_config
        self._identity = identity
        self._file_of = {name: file for file in map(_opened, files) for name in file.tensors}
        self.tensors = {**base.tensors, **{name: file.tensors[name] for name, file in self._file_of.items()}}
        self.quantized = {**base.quantized, **formats}
        for name, form in formats.items():
            self._check(name, form)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]:
        file = self._file_of.get(name)
        return self.base.read(name, start, stop) if file is None else file.read(name, start, stop)

    def file_of(self, name: str) -> Path:
        return self._file_of[name].path if name in self._file_of else self.base.file_of(name)

    def save_tokenizer(self, folder: Path) -> None:
        self.base.save_tokenizer(folder)

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.base.fingerprint()} {self._identity}".encode()).hexdigest()

    def _check(self, name: str, form: WeightFormat) -> None:
        """A quantized weight has all its parts, of the shapes that its format says."""
        rows, columns = self.base.tensors[name].shape
        scale = form.scale_shape(rows, columns)
        wanted = {name: (form.dtype, (rows, columns)), name + SCALE: (form.scale, scale)}
        if form.zeros:
            wanted[name + ZERO] = ("int8", scale)
        for part, kind in wanted.items():
            file = self._file_of.get(part)
            if file is None or (file.tensors[part].dtype, file.tensors[part].shape) != kind:
                where = self.file_of(part) if part in self.tensors else self.path
                raise CheckpointError(f"{where}: the calibration lacks {part}; remove it, and calibrate again")


class CalibratedCheckpoint(Overlay):
    """A finished calibration in a folder: ``calibration.json``, and a safetensors file for each layer it changed.

    ``quantized`` has the calibrated weights; norms and float weights that AWQ rescaled are float32 tensors under their
    own names; everything else is that of ``base``.
    """

    def __init__(self, base: Checkpoint, folder: Path) -> None:
        """Reads headers alone. CheckpointError for a folder that is damaged, unfinished or of another checkpoint."""
        self.folder = folder
        index = read_json_object(folder / INDEX)
        if index.get("checkpoint") != base.fingerprint():
            raise CheckpointError(f"{folder} is a calibration of another checkpoint than {base.path}")
        formats = {name: WeightFormat(**fields) for name, fields in index["formats"].items()}
        files = [layer_file(folder, layer) for layer in index["layers"]]
        missing = [file for file in files if not file.is_file()]
        if missing:
            raise CheckpointError(f"{missing[0]} is missing: the calibration was not finished; run it again")
        super().__init__(base, files, formats, index["key"])


def layer_file(folder: Path, layer: int) -> Path:
    """Where the tensors of a decoder layer are kept."""
    return folder / f"layer-{layer:05d}.safetensors"


def write_index(
    folder: Path, base: Checkpoint, key: str, method: str, layers: Sequence[int], formats: Mapping[str, WeightFormat]
) -> None:
    """Says what the folder is going to hold."""
    content = {
        "key": key,
        "checkpoint": base.fingerprint(),
        "method": method,
        "layers": list(layers),
        "formats": {name: asdict(form) for name, form in formats.items()},
    }
    _write(folder / INDEX, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())


def write_layer(folder: Path, layer: int, tensors: Mapping[str, npt.NDArray[np.generic]]) -> None:
    """The file of a layer, whole or not at all; two processes may write the same one."""
    _write(layer_file(folder, layer), save({name: np.ascontiguousarray(values) for name, values in tensors.items()}))


def _write(path: Path, content: bytes) -> None:
    """Written beside its place, to disk, then renamed."""
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


def _opened(path: Path) -> SafetensorsFile:
    try:
        return SafetensorsFile(path)
    except CheckpointError as error:
        raise CheckpointError(f"a cached calibration is damaged; remove {path} ({error})") from error
