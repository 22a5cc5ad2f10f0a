"""What the benchmark asks of an engine: set it up, convert a model for it, measure it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.workers.job import FIRST_TOKEN

WORKERS = Path(__file__).resolve().parent / "workers"
MEASURES = ("prefill", "decode", "batch", "start")
_STAMP = "ready.txt"


class EngineError(Exception):
    """An engine that cannot be set up, convert or run; the message is the reason that the tables show."""


@dataclass(frozen=True)
class Command:
    """A program to run, and what tells that its first token is there: a line ``marker``, or its first output."""

    arguments: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    marker: str | None = None


@dataclass(frozen=True)
class Job:
    """One short process of one engine. Lengths and contexts in tokens."""

    measure: str  # one of MEASURES
    model: Path  # what the engine's conversion wrote
    vocabulary: int
    threads: int
    seed: int  # of the random prompts
    lengths: tuple[int, ...] = ()  # prefill: of the prompts
    cases: tuple[tuple[int, int], ...] = ()  # decode and batch: (context, sequences decoding together)
    steps: int = 32  # decode and batch: tokens of each sequence
    repeats: int = 2  # samples of each length and case
    prompt: str = ""  # start: the text to continue


@dataclass(frozen=True)
class Sample:
    """``tokens`` took ``seconds``: a prompt of ``size`` tokens, or ``batch`` sequences decoding after ``size``."""

    measure: str
    size: int
    batch: int
    tokens: int
    seconds: float


class Engine(ABC):
    """An engine with its settings. Variants of one engine share their environment."""

    name: str  # as the option --engine takes it
    title: str  # as tables show it
    settings: str  # in words, for the tables' legend

    def __init__(self, place: Path) -> None:
        """``place``: the folder of this engine's environment."""
        self.place = place

    @abstractmethod
    def set_up(self) -> None:
        """Make the environment, once; EngineError with the reason where that fails."""

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """The versions that were measured, by package; to be asked after ``set_up``."""

    @abstractmethod
    def conversion(self, checkpoint: Path, converted: Path) -> Command:
        """What makes the folder ``converted`` from a Hugging Face folder."""

    @abstractmethod
    def command(self, job: Job) -> Command:
        """What measures ``job``."""

    def samples(self, job: Job, output: str) -> list[Sample]:
        """The samples that the command printed: JSON in the last line, as the workers write it."""
        lines = output.strip().splitlines()
        if not lines:
            raise EngineError("printed nothing")
        return [Sample(**sample) for sample in json.loads(lines[-1])["samples"]]


def worker(python: Path | str, script: str, job: Job) -> Command:
    """Run a file of ``workers`` on a job with the given interpreter."""
    content = {
        "measure": job.measure,
        "model": str(job.model),
        "vocabulary": job.vocabulary,
        "threads": job.threads,
        "seed": job.seed,
        "lengths": job.lengths,
        "cases": job.cases,
        "steps": job.steps,
        "repeats": job.repeats,
        "prompt": job.prompt,
    }
    return Command((str(python), str(WORKERS / script), json.dumps(content)), marker=FIRST_TOKEN)


class Environment:
    """A virtual environment with pinned packages."""

    def __init__(self, folder: Path, requirements: Sequence[str], *, without: Sequence[str] = ()) -> None:
        """``without``: packages that come along and must go again."""
        self.folder = folder
        self._requirements = tuple(requirements)
        self._without = tuple(without)

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    def program(self, name: str) -> str:
        """The path of a command that a package of it brought."""
        return str(self.folder / "bin" / name)

    def install(self) -> None:
        """Make it anew unless it holds these requirements; EngineError with pip's last words."""
        wanted = "\n".join((*self._requirements, *(f"without {name}" for name in self._without), ""))
        stamp = self.folder / _STAMP
        if stamp.is_file() and stamp.read_text() == wanted:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        execute([sys.executable, "-m", "venv", str(self.folder)])
        pip = [str(self.python), "-m", "pip", "--disable-pip-version-check", "--quiet"]
        execute([*pip, "install", *self._requirements])
        if self._without:
            execute([*pip, "uninstall", "--yes", *self._without])
        stamp.write_text(wanted)

    def versions(self, *packages: str) -> dict[str, str]:
        """Versions of installed packages."""
        code = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
        printed: dict[str, str] = json.loads(execute([str(self.python), "-c", code, *packages]))
        return printed


def execute(arguments: Sequence[str], *, folder: Path | None = None) -> str:
    """Run a program of a set-up and return its output; EngineError with the last line it said where it fails."""
    try:
        done = subprocess.run(list(arguments), cwd=folder, capture_output=True, text=True)
    except OSError as error:
        raise EngineError(f"{arguments[0]} cannot be run: {error.strerror}") from error
    if done.returncode:
        raise EngineError(f"{Path(arguments[0]).name} failed: {last_line(done.stderr or done.stdout)}")
    return done.stdout


def last_line(text: str) -> str:
    """The last line that says something, without pip's or Python's frame around it; at most 300 characters."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith(("hint:", "note:"))]
    errors = [line for line in lines if "error" in line.lower()]
    chosen: Any = (errors or lines or ["it said nothing"])[-1]
    return str(chosen)[:300]
