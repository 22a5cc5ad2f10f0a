"""A checkpoint around another one: what it does not change, it passes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy.typing as npt

from vamc_py.checkpoint.base import Checkpoint


class WrappedCheckpoint(Checkpoint):
    """``base`` under its own names; who derives from this changes ``tensors``, ``quantized`` and ``read``."""

    def __init__(self, base: Checkpoint) -> None:
        self.base = base
        self.path = base.path
        self.config = base.config
        self.config_file = base.config_file
        self.generation_config = base.generation_config
        self.tensors = base.tensors
        self.quantized = base.quantized

    def read(self, name: str, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]:
        return self.base.read(name, start, stop)

    def file_of(self, name: str) -> Path:
        return self.base.file_of(name)

    def save_tokenizer(self, folder: Path) -> None:
        self.base.save_tokenizer(folder)

    def fingerprint(self) -> str:
        return self.base.fingerprint()
