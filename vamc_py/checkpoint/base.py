"""What every checkpoint offers, in Hugging Face names."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from vamc_py.weights.formats import WeightFormat


@dataclass(frozen=True)
class TensorInfo:
    """A tensor that :meth:`Checkpoint.read` can read; ``dtype`` is the name of the numpy dtype it comes back in."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class Checkpoint(ABC):
    """A model's weights, configuration and tokenizer; nothing but headers is in memory.

    ``path``: the folder or file.
    ``config``: the content of config.json (config_vacc.json when preferred), or its equivalent.
    ``config_file``: the file it was read from, for messages.
    ``generation_config``: the content of generation_config.json; ``eos_token_id`` may be an id or a list. {} if none.
    ``tensors``: every tensor of the checkpoint by its Hugging Face name. A tied model has no lm_head.weight.
    ``quantized``: the formats of the weights that come quantized, by name. The tensor of that name holds the values
        [N, K]; beside it stand those of its scales and, where the format has them, zero points, under its name with
        ``formats.SCALE`` and ``formats.ZERO`` behind (``….q_proj.weight.scale``), in the shapes that the format says.
    """

    path: Path
    config: dict[str, Any]
    config_file: Path
    generation_config: dict[str, Any]
    tensors: Mapping[str, TensorInfo]
    quantized: Mapping[str, WeightFormat] = MappingProxyType({})

    @abstractmethod
    def read(self, name: str, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]:
        """Rows [start, stop) of the first axis, read-only where they are mapped; no other row is read.

        The dtype is ``tensors[name].dtype``. Raises CheckpointError when the rows hold no sensible data,
        IndexError for rows that the tensor does not have.
        """

    @abstractmethod
    def file_of(self, name: str) -> Path:
        """The file that holds a tensor, for messages."""

    @abstractmethod
    def save_tokenizer(self, folder: Path) -> None:
        """Writes tokenizer.json and tokenizer_config.json, the chat template inside, into an existing folder.

        The same checkpoint always gives the same bytes. Raises CheckpointError when there is no usable tokenizer.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """sha256 (hex) that tells checkpoints apart without reading them whole.

        Covers the names, sizes and headers of the weight files, a sample of every tensor's data, and all of the
        configuration, tokenizer and Python files. It does not depend on where the checkpoint lies. A change of
        single weights may escape it; another training run does not.
        """


def row_range(info: TensorInfo, start: int, stop: int | None) -> tuple[int, int]:
    """The checked range of rows; a scalar has none and is always read whole."""
    rows = info.shape[0] if info.shape else 1
    end = rows if stop is None else stop
    if not 0 <= start <= end <= rows:
        raise IndexError(f"{info.name} has {rows} rows, not [{start}, {end})")
    return start, end


def sample_row(values: npt.NDArray[np.uint8]) -> bytes:
    """Some bytes from the middle of a tensor's data, for the fingerprint."""
    middle = len(values) // 2
    return values[middle : middle + 256].tobytes()


def hash_parts(digest: hashlib._Hash, *parts: str | bytes) -> None:
    """Hashes parts with their lengths, so that no two lists of parts look alike."""
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)


def write_json(path: Path, content: object) -> None:
    """Deterministic bytes: sorted keys, UTF-8, a newline at the end."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
