"""OpenVINO GenAI: int8 per channel by optimum-intel, run by LLMPipeline with its defaults."""

from __future__ import annotations

from pathlib import Path

from benchmarks.engine import Command, Engine, Environment, Job, worker

_REQUIREMENTS = (
    "openvino==2026.4.1",
    "openvino-genai==2026.4.1.0",
    "openvino-tokenizers==2026.4.1.0",
    "optimum-intel==2.2.0",
    "nncf==3.4.0",
    "transformers==5.5.4",
    "torch==2.13.0",
)


class OpenVino(Engine):
    """Weights int8 for each row (nncf, asymmetric); activations in groups of int8, KV cache of 8 bits: its defaults."""

    name = "openvino"
    title = "OpenVINO GenAI"
    settings = "int8 weights per row, LLMPipeline with its defaults (8-bit KV cache, dynamic int8 activations)"

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        # torchvision comes along built for CUDA, and where it is, transformers imports it and fails.
        self._environment = Environment(place, _REQUIREMENTS, without=("torchvision",))

    def set_up(self) -> None:
        self._environment.install()

    def versions(self) -> dict[str, str]:
        return self._environment.versions("openvino-genai", "openvino", "optimum-intel", "nncf")

    def conversion(self, checkpoint: Path, converted: Path) -> Command:
        export = (self._environment.program("optimum-cli"), "export", "openvino", "--model", str(checkpoint))
        return Command((*export, "--task", "text-generation-with-past", "--weight-format", "int8", str(converted)))

    def command(self, job: Job) -> Command:
        return worker(self._environment.python, "openvino_worker.py", job)
