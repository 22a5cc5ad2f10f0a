"""Small random models compiled for the card ``tiny`` and for this machine, each once for all tests that ask for it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
from support.checkpoints import write_checkpoint
from support.end_to_end import configuration

from vamc_py import compiler
from vamc_py.checkpoint import Checkpoint
from vamc_py.compiler import trace_model
from vamc_py.config import Config, LoadedConfig
from vamc_py.frontend.model_config import ModelConfig
from vamc_py.pipeline.program import Program
from vamc_py.runtime.executor import Executor
from vamc_py.runtime.vacc import VaccExecutor

Logits = npt.NDArray[np.float32]
PREFILL, CONTEXT = 16, 48

CHECKPOINTS: dict[str, dict[str, Any]] = {
    "qwen3": {"architecture": "qwen3", "heads": 8, "intermediate": 128},  # 2 KV heads, tied
    "qwen2": {
        "architecture": "qwen2", "heads": 9, "kv_heads": 3, "hidden": 144, "vocab": 301, "tied": False,
    },  # biases; no multiple of the tile
}  # fmt: skip
NUMBERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "fp16": ("fp16", ()),
    "int8": ("int8", ("frontend.quantize.lm_head=true", "frontend.quantize.activation=int16")),
    "int8_g32": ("int8", ("frontend.quantize.lm_head=true", "frontend.quantize.activation=int8_g32")),
}
"""The types by name, and what the YAML says of them; the embedding is int8 on both targets then."""


class Models:
    """Artifacts by what they are of."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._loaded: dict[Any, Any] = {}
        self._traced: dict[str, Program] = {}

    def checkpoint(self, name: str) -> Path:
        path = self.folder / name
        if not path.exists():
            write_checkpoint(path, scale=0.1, **CHECKPOINTS[name])
        return path

    def configuration(
        self, name: str, workspace: Path, numbers: str, *overrides: str, tp: int | None = None
    ) -> LoadedConfig:
        """Of a compile for the card, or (without `tp`) for this machine."""
        dtype, own = NUMBERS[numbers]
        if tp is None and dtype == "fp16":
            dtype = "fp32"  # the processor has no float16
        return configuration(
            self.checkpoint(name),
            workspace,
            dtype=dtype,
            prefill=PREFILL,
            context=CONTEXT,
            overrides=[*own, *([] if tp is None else on_tiny(tp)), *overrides],
        )

    def compile(self, loaded: LoadedConfig) -> Path:
        """The artifact's folder. A checkpoint is traced once, which takes half of a compile's time."""
        with patch.object(compiler, "trace_model", self._trace):
            return compiler.compile_config(loaded).folder

    def _trace(self, config: Config, checkpoint: Checkpoint, model: ModelConfig) -> Program:
        key = config.frontend.checkpoint
        if key not in self._traced:
            self._traced[key] = trace_model(config, checkpoint, model)
        return self._traced[key]

    def artifact(self, name: str, numbers: str, tp: int | None = None) -> Path:
        """The folder of an artifact, for the card or for this machine."""
        workspace = self.folder / f"{name}-{numbers}-{tp}"
        if not workspace.exists():
            workspace.mkdir()
            self.compile(self.configuration(name, workspace, numbers, tp=tp))
        return workspace / "model"

    def vacc(self, name: str, numbers: str, tp: int = 1) -> VaccExecutor:
        """For the card."""
        return self._load(VaccExecutor, name, numbers, tp)

    def llvm(self, name: str, numbers: str) -> Executor:
        """For this machine; in float32 where the card has float16."""
        return self._load(Executor, name, numbers, None)

    def _load(self, kind: Any, *key: Any) -> Any:
        if key not in self._loaded:
            self._loaded[key] = kind.load(self.artifact(*key))
        return self._loaded[key]


def on_tiny(tp: int) -> list[str]:
    return ["backend.type=tvm_vacc", "backend.target=tiny", f"frontend.model_kwargs.tp={tp}"]


def text(count: int, seed: int = 0) -> list[int]:
    """Random tokens."""
    return np.random.default_rng(seed).integers(0, 288, count).tolist()


def logits_along(executor: Executor | VaccExecutor, tokens: Sequence[int], prompt: int) -> Logits:
    """The logits of a prompt, and of each token behind it."""
    rows = [executor.feed(tokens[:prompt], slot=0, start=0)]
    rows += [executor.feed([token], slot=0, start=prompt + at) for at, token in enumerate(tokens[prompt:])]
    return np.stack(rows)


def worst(got: Logits, expected: Logits) -> float:
    """The largest difference over the largest logit of its row."""
    return float((np.abs(got - expected).max(1) / np.abs(expected).max(1)).max())


def digests(folder: Path) -> dict[str, str]:
    """Of every file of an artifact but how long its compile took, and that it was verified."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("times.json", ".verified")
    }
