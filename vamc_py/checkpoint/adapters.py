"""LoRA adapters, as PEFT saves them, added to the weights they were trained on while these are read.

LoRA: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685; the scaling of rsLoRA:
Kalajdzievski, arXiv 2312.03732.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from vamc_py.checkpoint.adapter_config import read_adapter_config
from vamc_py.checkpoint.base import Checkpoint, TensorInfo, hash_parts, row_range
from vamc_py.checkpoint.check import WEIGHT_DTYPES
from vamc_py.checkpoint.hub import download, is_hub_id
from vamc_py.checkpoint.safetensors_file import SafetensorsFile
from vamc_py.checkpoint.wrapped import WrappedCheckpoint
from vamc_py.errors import CheckpointError

Floats = npt.NDArray[np.float32]

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_NAME = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")


@dataclass(frozen=True)
class LowRank:
    """What an adapter adds to a weight [N, K]: scaling * B @ A, of the tensors ``b`` [N, r] and ``a`` [r, K]."""

    file: SafetensorsFile
    a: str
    b: str
    scaling: float

    def factor(self, name: str, start: int = 0, stop: int | None = None) -> Floats:
        """Rows of A or B in float32; CheckpointError where they are not finite."""
        rows = self.file.read(name, start, stop).astype(np.float32)
        if not np.isfinite(rows).all():
            raise CheckpointError(f"{self.file.path}: {name} has values that are not finite; use another adapter")
        return rows


class AdaptedCheckpoint(WrappedCheckpoint):
    """``base`` with adapters merged in: adapted weights come in float32, the rest as it was."""

    def __init__(self, base: Checkpoint, locations: Sequence[str]) -> None:
        """
        Args:
            locations: folders of PEFT adapters, or hub ids; what several add to one weight adds up.

        Raises CheckpointError: an adapter that is not there, of another kind than LoRA, for another model, or for
        weights that come quantized: a merge would have to round them again.
        """
        super().__init__(base)
        self._adapters = [_Adapter(_folder(location)) for location in locations]
        parts: dict[str, list[LowRank]] = {}
        for adapter in self._adapters:
            for name, part in adapter.parts(base).items():
                parts.setdefault(name, []).append(part)
        self._parts: Mapping[str, list[LowRank]] = parts
        adapted = {name: TensorInfo(name, base.tensors[name].shape, "float32") for name in parts}
        self.tensors = {**base.tensors, **adapted}
        self._last: tuple[str, list[Floats]] = ("", [])

    def read(self, name: str, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]:
        """Of adapted weights f32 rows W + sum of scaling * B @ A, each product in float32."""
        if name not in self._parts:
            return self.base.read(name, start, stop)
        start, stop = row_range(self.tensors[name], start, stop)
        rows = np.array(self.base.read(name, start, stop), dtype=np.float32)
        for part, a in zip(self._parts[name], self._down(name), strict=True):
            rows += (part.factor(part.b, start, stop) * np.float32(part.scaling)) @ a
        return rows

    def fingerprint(self) -> str:
        """The base's, and what tells the adapters apart, in their order."""
        digest = hashlib.sha256()
        hash_parts(digest, self.base.fingerprint())
        for adapter in self._adapters:
            hash_parts(digest, (adapter.folder / CONFIG).read_bytes())
            hash_parts(digest, str(adapter.file.path.stat().st_size), adapter.file.header, *adapter.file.samples())
        return digest.hexdigest()

    def _down(self, name: str) -> list[Floats]:
        """Every A of a weight, kept until another weight is read: a weight is read in many blocks of rows."""
        if self._last[0] != name:
            self._last = (name, [part.factor(part.a) for part in self._parts[name]])
        return self._last[1]


class _Adapter:
    """One folder: its config, and its tensors in pairs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / CONFIG).is_file():
            raise CheckpointError(f"{folder} has no {CONFIG}; set frontend.adapters to folders that PEFT saved")
        self.config = read_adapter_config(folder / CONFIG)
        if not (folder / WEIGHTS).is_file():
            raise CheckpointError(f"{folder} has no {WEIGHTS}; save the adapter with safe_serialization=True")
        self.file = SafetensorsFile(folder / WEIGHTS)

    def parts(self, base: Checkpoint) -> dict[str, LowRank]:
        """What is added to each weight of ``base``, by its name."""
        modules = self._modules()
        for target in self.config.targets:
            if not any(module == target or module.endswith(f".{target}") for module in modules):
                what = f"target_modules names {target}, and {WEIGHTS} adapts no such module"
                raise CheckpointError(f"{self.folder / CONFIG}: {what}; use the whole adapter")
        return {f"{module}.weight": self._part(base, module, names) for module, names in modules.items()}

    def _modules(self) -> dict[str, dict[str, str]]:
        """The names of A and B by module."""
        modules: dict[str, dict[str, str]] = {}
        for name in self.file.tensors:
            match = _NAME.fullmatch(name)
            if match is None:
                what = "is no A or B of a linear layer's LoRA, the only tensors that are merged"
                raise CheckpointError(f"{self.file.path}: {name} {what}")
            modules.setdefault(match["module"], {})[match["factor"]] = name
        for names in modules.values():
            if len(names) == 1:
                (factor, name), other = next(iter(names.items())), "AB"
                missing = other.replace(factor, "")
                raise CheckpointError(f"{self.file.path}: {name} is there without its {missing}; use the whole adapter")
        if not modules:
            raise CheckpointError(f"{self.file.path} holds no tensors; use the whole adapter")
        return modules

    def _part(self, base: Checkpoint, module: str, names: Mapping[str, str]) -> LowRank:
        weight = f"{module}.weight"
        info = base.tensors.get(weight)
        if info is None or len(info.shape) != 2:
            self._refuse(names["A"], f"adapts {weight}, which the model does not have; use an adapter of this model")
        if weight in base.quantized:
            self._refuse(names["A"], f"adapts {weight}, which comes quantized; use the unquantized checkpoint")
        if info.dtype not in WEIGHT_DTYPES:
            self._refuse(names["A"], f"adapts {weight}, which is {info.dtype}; use a checkpoint of floats")
        if base.config.get("tie_word_embeddings") and module in ("lm_head", "model.embed_tokens"):
            self._refuse(names["A"], f"adapts {module} alone, and the model has one weight for embedding and lm_head")
        rank, scaling = self.config.rank(module), self.config.scaling(module)
        wanted = {"A": (rank, info.shape[1]), "B": (info.shape[0], rank)}
        for factor, name in names.items():
            found = self.file.tensors[name]
            if found.shape != wanted[factor]:
                what = f"has the shape {list(found.shape)}; rank {rank} and {weight} ask for {list(wanted[factor])}"
                self._refuse(name, what)
            if found.dtype not in WEIGHT_DTYPES:
                self._refuse(name, f"is {found.dtype}; adapters can be {', '.join(WEIGHT_DTYPES)}")
        return LowRank(self.file, names["A"], names["B"], scaling)

    def _refuse(self, name: str, what: str) -> NoReturn:
        raise CheckpointError(f"{self.file.path}: {name} {what}")


def _folder(location: str) -> Path:
    path = Path(location).expanduser()
    if path.is_dir():
        return path
    if not path.exists() and is_hub_id(location):
        return download(location, "frontend.adapters")
    raise CheckpointError(f"there is no folder {path}; correct frontend.adapters")
