"""The benchmark's stages: set up the engines, convert the models, measure in rounds."""

from __future__ import annotations

import datetime
import json
import platform
import secrets
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.catalog import default_engines, make_engine
from benchmarks.checkpoints import ModelChoice
from benchmarks.engine import MEASURES, WORKERS, Command, Engine, EngineError, Job
from benchmarks.processes import watch
from benchmarks.results import Conversion, EngineFacts, Failure, MachineLimits, Process, Results
from benchmarks.shape import ModelShape
from vamc_py.artifact.cpu import cpu_name
from vamc_py.runtime.threads import VARIABLE

_PROMPT = "What is the capital of France?"
_PROCESS_SECONDS = 900.0  # of one measuring process at most
_CONVERSION_SECONDS = 3600.0


@dataclass(frozen=True)
class Plan:
    """What to do, and where. Lengths and contexts in tokens."""

    folder: Path
    results: Path
    models: tuple[ModelChoice, ...]
    engines: tuple[str, ...]  # () means those that fit each model
    measures: tuple[str, ...] = MEASURES
    lengths: tuple[int, ...] = (128, 512, 1024)
    contexts: tuple[int, ...] = (128, 512, 1024, 1920)
    batches: tuple[int, ...] = (4, 16)
    batch_context: int = 128
    steps: int = 32
    repeats: int = 2
    rounds: int = 5
    threads: int = 1
    tokenizer: Path | None = None

    def job(self, measure: str, converted: Path, vocabulary: int) -> Job:
        """One process of a measure, with prompts of its own."""
        cases = {
            "decode": tuple((context, 1) for context in self.contexts),
            "batch": tuple((self.batch_context, batch) for batch in self.batches),
        }
        return Job(
            measure=measure,
            model=converted,
            vocabulary=vocabulary,
            threads=self.threads,
            seed=secrets.randbits(32),
            lengths=self.lengths,
            cases=cases.get(measure, ()),
            steps=self.steps,
            repeats=self.repeats,
            prompt=_PROMPT,
        )


class Benchmark:
    """Runs a plan; every result is saved as soon as it is there, and what is there is not done again."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.results = Results.read(plan.results)
        plan.folder.mkdir(parents=True, exist_ok=True)
        plan.results.parent.mkdir(parents=True, exist_ok=True)
        self._engines: dict[str, Engine] = {}
        self._checkpoints: dict[str, Path] = {}

    def prepare(self) -> None:
        """Make the checkpoints that are not there, and set up the engines; failures are kept with their reason."""
        for choice in self._plan.models:
            folder = choice.folder(self._plan.folder / "checkpoints", self._plan.tokenizer)
            self._checkpoints[choice.name] = folder
            self.results.models[choice.name] = ModelShape.read(folder)
        for name in dict.fromkeys(name for choice in self._plan.models for name in self._names(choice.name)):
            self._set_up(name)
        self.results.machine = {
            "cpu": cpu_name(),
            "threads": self._plan.threads,
            "memory": psutil.virtual_memory().total,
            "system": f"{platform.system()} {platform.release()}",
            "date": datetime.date.today().isoformat(),
        }
        self._save()

    def convert(self) -> None:
        """Make each engine's form of each model, where it is not there."""
        for choice in self._plan.models:
            for name in self._ready(choice.name):
                self._convert(choice.name, name)

    def measure(self, seconds: float | None = None) -> bool:
        """Round after round, all engines by turns; stops between two processes once ``seconds`` are over.

        The value says whether all rounds are there.
        """
        deadline = time.monotonic() + (float("inf") if seconds is None else seconds)
        for round_ in range(self._plan.rounds):
            for choice in self._plan.models:
                for measure in self._plan.measures:
                    if not self._measure(round_, choice.name, measure, deadline):
                        return False
        return True

    def _names(self, model: str) -> tuple[str, ...]:
        return self._plan.engines or default_engines(self.results.models[model])

    def _ready(self, model: str) -> list[str]:
        """The engines that could be set up."""
        return [name for name in self._names(model) if name in self._engines]

    def _set_up(self, name: str) -> None:
        engine = make_engine(name, self._plan.folder / "environments")
        say(f"set-up: {name}")
        self.results.forget_failure(name, "", "set-up")
        versions: dict[str, str] = {}
        try:
            engine.set_up()
            versions = engine.versions()
        except EngineError as error:
            self._fail(Failure(name, "", "set-up", str(error)))
        else:
            self._engines[name] = engine
        self.results.engines[name] = EngineFacts(engine.title, engine.settings, versions)

    def _converted(self, model: str, engine: str) -> Path:
        return self._plan.folder / "converted" / engine.replace(":", "-") / model

    def _convert(self, model: str, name: str) -> None:
        converted = self._converted(model, name)
        if converted.is_dir() and self.results.conversion(model, name):
            return
        say(f"conversion: {model}, {name}")
        shutil.rmtree(converted, ignore_errors=True)
        converted.parent.mkdir(parents=True, exist_ok=True)
        self.results.forget_failure(name, model, "conversion")
        try:
            command = self._engines[name].conversion(self._checkpoints[model], converted)
            done = watch(command, limit=_CONVERSION_SECONDS, log=converted.with_name(f"{model}.log"))
        except EngineError as error:
            shutil.rmtree(converted, ignore_errors=True)
            self._fail(Failure(name, model, "conversion", str(error)))
        except BaseException:  # half a conversion would be taken for a whole one by the next call
            shutil.rmtree(converted, ignore_errors=True)
            raise
        else:
            size = sum(path.stat().st_size for path in converted.rglob("*") if path.is_file())
            memory = done.memory
            sizes = (memory.anonymous, memory.file, memory.resident, size)
            self.results.conversions.append(Conversion(model, name, done.seconds, *sizes))
        self._save()

    def _measure(self, round_: int, model: str, measure: str, deadline: float) -> bool:
        """One measure of one round; False when the time is over before its end."""
        names = self._ready(model)
        turn = round_ % len(names) if names else 0
        for name in (*names[turn:], *names[:turn]):
            done = self.results.done(round_, model, name, measure)
            if done or not self._converted(model, name).is_dir():
                continue
            if time.monotonic() > deadline:
                return False
            self._limits(round_, model, measure)
            self._run(round_, model, name, measure)
        return True

    def _limits(self, round_: int, model: str, measure: str) -> None:
        """The machine's limits, once before a measure's engines."""
        key = (round_, model, measure)
        if any((one.round, one.model, one.measure) == key for one in self.results.limits):
            return
        threads = {VARIABLE: str(self._plan.threads)}
        command = Command((sys.executable, str(WORKERS / "limits_worker.py")), threads)
        passes = json.loads(watch(command, limit=_PROCESS_SECONDS).output)
        self.results.limits.append(MachineLimits(round_, model, measure, passes))

    def _run(self, round_: int, model: str, name: str, measure: str) -> None:
        say(f"round {round_ + 1}: {model}, {measure}, {name}")
        engine = self._engines[name]
        job = self._plan.job(measure, self._converted(model, name), self.results.models[model].vocabulary)
        self.results.forget_failure(name, model, measure)
        try:
            done = watch(engine.command(job), limit=_PROCESS_SECONDS)
            samples = engine.samples(job, done.output)
        except EngineError as error:
            self._fail(Failure(name, model, measure, str(error)))
        else:
            memory = done.memory
            sizes = (memory.anonymous, memory.file, memory.resident)
            times = (done.seconds, done.first_token)
            self.results.processes.append(Process(round_, model, name, measure, job.seed, *times, *sizes, samples))
        self._save()

    def _fail(self, failure: Failure) -> None:
        say(f"{failure.engine}, {failure.stage}: {failure.reason}")
        self.results.fail(failure)

    def _save(self) -> None:
        self.results.save(self._plan.results)


def say(line: str) -> None:
    """Progress, on stderr."""
    print(line, file=sys.stderr, flush=True)
