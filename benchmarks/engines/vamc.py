"""vamc-py: this repository's compiler and runtime, with one kind of arithmetic for its int8 weights."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import yaml

from benchmarks.engine import Command, Engine, Job, worker

_PACKAGES = ("vamc-py", "apache-tvm")
_PREFILL, _CONTEXT = 1024, 2048


class VamcPy(Engine):
    """``activation``: frontend.quantize.activation of the YAML."""

    def __init__(self, place: Path, activation: str) -> None:
        super().__init__(place)
        self._activation = activation
        self.name = f"vamc-py:{activation}"
        self.title = f"vamc-py, {activation}"
        self.settings = f"int8 weights per row, activation: {activation}, fp16 KV cache"

    def set_up(self) -> None:
        """Nothing: it runs in the environment of the benchmark itself."""

    def versions(self) -> dict[str, str]:
        return {name: importlib.metadata.version(name) for name in _PACKAGES}

    def configuration(self, checkpoint: Path, converted: Path) -> str:
        """The YAML that compiles ``checkpoint`` into ``converted``."""
        return yaml.safe_dump(
            {
                "name": converted.name,
                "frontend": {
                    "checkpoint": str(checkpoint),
                    "type": "huggingface",
                    "shape": {"input_ids": [[_PREFILL], [_CONTEXT]]},
                    "quantize": {"type": "w8a16", "activation": self._activation},
                },
                "backend": {"type": "tvm_llvm", "dtype": "int8"},
                "workspace": {"path": str(converted.parent)},
            },
            sort_keys=False,
        )

    def conversion(self, checkpoint: Path, converted: Path) -> Command:
        converted.parent.mkdir(parents=True, exist_ok=True)
        path = converted.with_name(f"{converted.name}.yaml")
        path.write_text(self.configuration(checkpoint, converted))
        return Command((sys.executable, "-m", "vamc_py.cli", "compile", str(path)))

    def command(self, job: Job) -> Command:
        return worker(sys.executable, "vamc_worker.py", job)
