"""Runs models on a text and on questions, and puts what they did beside their sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vamc_py.errors import UserError
from vamc_py.evaluation.choices import Answers, answer
from vamc_py.evaluation.compare import Figures, compare
from vamc_py.evaluation.questions import Subject, read_subjects
from vamc_py.evaluation.reference import check_same_tokens
from vamc_py.evaluation.sizes import bits_per_weight, parameter_bytes
from vamc_py.progress import stage
from vamc_py.runtime.executor import Executor
from vamc_py.runtime.perplexity import Tokens, read_tokenizer, tokenize, windows


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    text: Path | None = None
    chunks: int | None = None  # windows of the text; None: all
    context: int = 512  # tokens of a window
    choices: tuple[Path, ...] = ()
    shots: int = 0
    limit: int | None = None  # questions of a subject; None: all
    threads: int | None = None


@dataclass(frozen=True)
class Model:
    """An artifact and what it is called in the table."""

    label: str
    folder: Path


@dataclass(frozen=True)
class Evaluation:
    """The figures of all models, in their order; the first is the reference where there is one."""

    models: tuple[Model, ...]
    reference: bool
    bits: tuple[float, ...]  # a weight
    bytes: tuple[int, ...]  # of parameters
    figures: tuple[Figures, ...]  # () without a text
    answers: dict[str, Answers]  # by the name of the file of questions

    def record(self) -> dict[str, Any]:
        """Everything as JSON's types; null for what is no finite number."""
        record = {
            "reference": self.models[0].label if self.reference else None,
            "models": [self._model(index) for index in range(len(self.models))],
            "questions": {name: {"cut": a.cut, "left_out": a.left_out} for name, a in self.answers.items()},
        }
        finite: dict[str, Any] = _finite(record)
        return finite

    def _model(self, index: int) -> dict[str, Any]:
        record: dict[str, Any] = {
            "scheme": self.models[index].label,
            "bits_per_weight": self.bits[index],
            "parameter_bytes": self.bytes[index],
        }
        if self.figures:
            record |= asdict(self.figures[index])
            record["ppl_increase"] = self.increase(index)
        for name, answers in self.answers.items():
            by_subject = {subject: asdict(scores[index]) for subject, scores in answers.by_subject.items()}
            score = answers.scores[index]
            record.setdefault("choices", {})[name] = {
                **{"accuracy": score.accuracy, "agreement": score.agreement if self.reference else None},
                **{"score": asdict(score), "subjects": by_subject},
            }
        return record

    def increase(self, index: int) -> float | None:
        """The perplexity over the reference's, less 1; None without either."""
        if not self.reference or not self.figures:
            return None
        return self.figures[index].ppl / self.figures[0].ppl - 1


def evaluate(models: Sequence[Model], settings: Settings, *, reference: bool) -> Evaluation:
    """Measures the models; with ``reference`` the first is what the others are compared to.

    All are loaded at once and take turns: their parameters are mapped, so the system may drop pages when memory is
    short. UserError for settings that do not fit the models, files that cannot be read, and models of other tokens.
    """
    folders = [model.folder for model in models]
    check_same_tokens(folders)
    parts = _windows(folders[0], settings)
    subjects = _subjects(settings)
    context = None if subjects else settings.context
    with stage("load"):
        executors = [Executor.load(folder, context=context, threads=settings.threads) for folder in folders]
    _check_context(executors, settings)
    manifests = [executor.manifest for executor in executors]
    figures = compare(executors, parts, reference=reference) if parts else []
    tokenizer = read_tokenizer(folders[0])
    answers = {name: answer(executors, tokenizer, of_file, settings.shots) for name, of_file in subjects.items()}
    return Evaluation(
        models=tuple(models),
        reference=reference,
        bits=tuple(bits_per_weight(manifest) for manifest in manifests),
        bytes=tuple(parameter_bytes(manifest) for manifest in manifests),
        figures=tuple(figures),
        answers=answers,
    )


def _windows(folder: Path, settings: Settings) -> list[Tokens]:
    if settings.text is None:
        return []
    return windows(tokenize(folder, settings.text), settings.context, settings.chunks)


def _subjects(settings: Settings) -> dict[str, list[Subject]]:
    names = [path.stem for path in settings.choices]
    if len(set(names)) < len(names):
        raise UserError("--choices: two files of one name; the table could not tell them apart")
    return {path.stem: read_subjects(path, shots=settings.shots, limit=settings.limit) for path in settings.choices}


def _check_context(executors: Sequence[Executor], settings: Settings) -> None:
    shortest = min(executor.context for executor in executors)
    if settings.text is not None and settings.context > shortest:
        raise UserError(f"--context {settings.context}: the artifact was compiled for 4 to {shortest} tokens")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
