"""A folder as Hugging Face lays it out: config.json, safetensors in one file or in shards, a tokenizer."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy.typing as npt

from vamc_py.checkpoint.base import Checkpoint, hash_parts
from vamc_py.checkpoint.huggingface_tokenizer import TOKENIZER_FILES, save_tokenizer
from vamc_py.checkpoint.jsonfile import read_json_object
from vamc_py.checkpoint.safetensors_file import SafetensorsFile
from vamc_py.errors import CheckpointError

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"


class HuggingFaceCheckpoint(Checkpoint):
    def __init__(self, path: Path, *, vacc_config: bool = False) -> None:
        """Reads the JSON files and the headers; CheckpointError names the file and tensor at fault."""
        if not path.is_dir():
            raise CheckpointError(f"there is no folder {path}; correct frontend.checkpoint")
        self.path = path
        self.config_file = _config_file(path, vacc_config)
        self.config = read_json_object(self.config_file)
        generation = path / "generation_config.json"
        self.generation_config = read_json_object(generation) if generation.exists() else {}
        self._files = _weight_files(path)
        self._file_of = {name: file for file in self._files for name in file.tensors}
        self.tensors = {name: file.tensors[name] for name, file in self._file_of.items()}

    def read(self, name: str, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]:
        return self._file_of[name].read(name, start, stop)

    def file_of(self, name: str) -> Path:
        return self._file_of[name].path

    def save_tokenizer(self, folder: Path) -> None:
        save_tokenizer(self.path, folder)

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        code = sorted(file.name for file in self.path.glob("*.py"))  # a checkpoint's own model may be traced
        for name in (self.config_file.name, "generation_config.json", *TOKENIZER_FILES, *code):
            file = self.path / name
            if file.is_file():
                hash_parts(digest, name, file.read_bytes())
        for weights in self._files:
            hash_parts(digest, weights.path.name, str(weights.path.stat().st_size).encode(), weights.header)
            hash_parts(digest, *weights.samples())
        return digest.hexdigest()


def _config_file(folder: Path, vacc_config: bool) -> Path:
    for name in ("config_vacc.json", "config.json") if vacc_config else ("config.json",):
        if (folder / name).is_file():
            return folder / name
    gguf = next(folder.glob("*.gguf"), None)
    hint = f"for {gguf.name} set frontend.type: gguf" if gguf else "set frontend.checkpoint to the model's folder"
    raise CheckpointError(f"{folder} has no config.json; {hint}")


def _weight_files(folder: Path) -> list[SafetensorsFile]:
    """All weight files of the folder; no tensor is in two of them."""
    index = folder / _INDEX
    if index.is_file():
        return _shards(folder, index)
    single = folder / _SINGLE
    if single.is_file():
        return [SafetensorsFile(single)]
    others = sorted(file.name for pattern in ("*.safetensors", "*.bin", "*.pth") for file in folder.glob(pattern))
    if any(name.endswith(".safetensors") for name in others):
        raise CheckpointError(f"{folder} has {others[0]} but no {_INDEX}, which says where each tensor is; fetch it")
    if others:
        what = f"{folder} has no safetensors, only {others[0]}, which can run code when it is loaded"
        hint = "convert it: AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder)"
        raise CheckpointError(f"{what}; {hint}")
    raise CheckpointError(f"{folder} has no {_SINGLE} and no {_INDEX}; fetch the weights")


def _shards(folder: Path, index: Path) -> list[SafetensorsFile]:
    """The shards that the index names, checked against it in both directions."""
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise CheckpointError(f"{index}: weight_map must map the names of tensors to files; fetch the file again")
    names = sorted(set(weight_map.values()))
    for name in names:
        if Path(name).name != name:
            raise CheckpointError(f"{index}: the shard {name!r} is not a file of this folder; correct the index")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(f"{index} names {missing[0]}{more}, which is not there; fetch the missing shards")
    files = [SafetensorsFile(folder / name) for name in names]
    _check_index(index, weight_map, files)
    return files


def _check_index(index: Path, weight_map: dict[str, str], files: list[SafetensorsFile]) -> None:
    place: dict[str, str] = {}
    for file in files:
        for tensor in file.tensors:
            if tensor in place:
                what = f"the tensor {tensor} is in {place[tensor]} and in {file.path.name}"
                raise CheckpointError(f"{index.parent}: {what}; remove the shards that do not belong to this model")
            place[tensor] = file.path.name
    for tensor, name in weight_map.items():
        if place.get(tensor) != name:
            found = f"it is in {place[tensor]}" if tensor in place else "no shard has it"
            raise CheckpointError(f"{index} puts the tensor {tensor} into {name}, but {found}; fetch index and shards")
    unlisted = sorted(set(place) - set(weight_map))
    if unlisted:
        raise CheckpointError(f"{index} does not list {unlisted[0]} of {place[unlisted[0]]}; fetch index and shards")
