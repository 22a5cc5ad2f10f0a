"""ONNX Runtime GenAI: its own model builder and generator on the CPU."""

from __future__ import annotations

from pathlib import Path

from benchmarks.engine import Command, Engine, Environment, Job, worker

_REQUIREMENTS = (
    "onnxruntime-genai==0.18.0",
    "onnxruntime==1.31.1",
    "onnx==1.23.2",
    "onnx-ir==1.1.0",
    "transformers==5.23.0",
    "torch==2.13.0",
)


class OnnxRuntime(Engine):
    """Weights in int8 blocks; ``int4_accuracy_level=4`` asks for int8 arithmetic, whatever its name says."""

    name = "onnxruntime"
    title = "ONNX Runtime GenAI"
    settings = "int8 weights in blocks of 32, int8 arithmetic (int4_accuracy_level=4)"

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self._environment = Environment(place, _REQUIREMENTS)

    def set_up(self) -> None:
        self._environment.install()

    def versions(self) -> dict[str, str]:
        return self._environment.versions("onnxruntime-genai", "onnxruntime")

    def conversion(self, checkpoint: Path, converted: Path) -> Command:
        builder = (str(self._environment.python), "-m", "onnxruntime_genai.models.builder")
        places = (
            "-i",
            str(checkpoint),
            "-o",
            str(converted),
            "-c",
            str(converted.with_name(converted.name + ".cache")),
        )
        return Command((*builder, *places, "-p", "int8", "-e", "cpu", "--extra_options", "int4_accuracy_level=4"))

    def command(self, job: Job) -> Command:
        return worker(self._environment.python, "onnxruntime_worker.py", job)
