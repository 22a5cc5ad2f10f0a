"""The raw results: every sample of every process, in one JSON file that grows as the benchmark runs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.engine import Sample
from benchmarks.shape import ModelShape
from vamc_py.errors import UserError

_FORMAT = 1


@dataclass
class Process:
    """One engine's short process in one round, with what it measured. Sizes in bytes, times in seconds."""

    round: int
    model: str
    engine: str
    measure: str
    seed: int
    seconds: float
    first_token: float | None
    anonymous: int
    file: int
    resident: int
    samples: list[Sample]


@dataclass
class MachineLimits:
    """The machine's limits just before the engines of one measure; bytes or operations a second, one for each pass."""

    round: int
    model: str
    measure: str
    passes: dict[str, list[float]]


@dataclass
class Conversion:
    """What it took to make an engine's form of a model. Sizes in bytes, times in seconds."""

    model: str
    engine: str
    seconds: float
    anonymous: int
    file: int
    resident: int
    size: int  # of what was written


@dataclass
class Failure:
    """Something that an engine could not do; ``model`` is empty where it could not be set up at all."""

    engine: str
    model: str
    stage: str  # "set-up", "conversion", or a measure
    reason: str


@dataclass
class EngineFacts:
    """An engine as it was measured."""

    title: str
    settings: str
    versions: dict[str, str]


@dataclass
class Results:
    """All of it. Change it by its methods and attributes, and ``save`` after each change worth keeping."""

    machine: dict[str, Any] = field(default_factory=dict)
    models: dict[str, ModelShape] = field(default_factory=dict)
    engines: dict[str, EngineFacts] = field(default_factory=dict)
    conversions: list[Conversion] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    limits: list[MachineLimits] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Results:
        """The results of a file, or none where it is not there; UserError for a file that holds something else."""
        if not path.exists():
            return cls()
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.pop("format") != _FORMAT:
                raise UserError(f"{path}: written by another version of the benchmark; move it away or give --results")
            return cls(
                machine=content["machine"],
                models={name: ModelShape(**shape) for name, shape in content["models"].items()},
                engines={name: EngineFacts(**facts) for name, facts in content["engines"].items()},
                conversions=[Conversion(**one) for one in content["conversions"]],
                failures=[Failure(**one) for one in content["failures"]],
                limits=[MachineLimits(**one) for one in content["limits"]],
                processes=[_process(one) for one in content["processes"]],
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path}: no results of this benchmark ({error!r}); move it away or give --results"
            ) from error

    def save(self, path: Path) -> None:
        """Write all of it; a reader of the file never meets half of it."""
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(json.dumps({"format": _FORMAT, **asdict(self)}, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, path)

    def fail(self, failure: Failure) -> None:
        """Note a failure, once for the same stage."""
        self.forget_failure(failure.engine, failure.model, failure.stage)
        self.failures.append(failure)

    def forget_failure(self, engine: str, model: str, stage: str) -> None:
        """What failed before works now, or is tried again."""
        key = (engine, model, stage)
        self.failures = [one for one in self.failures if (one.engine, one.model, one.stage) != key]

    def done(self, round_: int, model: str, engine: str, measure: str) -> bool:
        """Whether this process has run."""
        key = (round_, model, engine, measure)
        return any((one.round, one.model, one.engine, one.measure) == key for one in self.processes)

    def processes_of(self, model: str, engine: str, measure: str) -> Iterator[Process]:
        """The processes of one measure, over all rounds."""
        key = (model, engine, measure)
        return (one for one in self.processes if (one.model, one.engine, one.measure) == key)

    def conversion(self, model: str, engine: str) -> Conversion | None:
        """The last conversion of a model for an engine."""
        found = [one for one in self.conversions if (one.model, one.engine) == (model, engine)]
        return found[-1] if found else None


def _process(content: dict[str, Any]) -> Process:
    samples = [Sample(**sample) for sample in content.pop("samples")]
    return Process(**content, samples=samples)
