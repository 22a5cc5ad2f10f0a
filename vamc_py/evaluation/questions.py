"""Files of multiple-choice questions: C-Eval's zip, MMLU-style csv without a header, jsonl."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from vamc_py.errors import UserError

LETTERS = "ABCDEFGHIJ"
_SCORED = ("val", "test")  # folders, and endings of file names, whose questions are asked; the first one that is there
_SHOTS = "dev"  # those whose questions are shown with their answers
_KINDS = (".csv", ".jsonl")


@dataclass(frozen=True)
class Style:
    """The words around the questions. ``{subject}`` is the subject's name."""

    intro: str
    answer: str  # before the answer's letter
    space: str  # between the two; it belongs to the letter's token


# C-Eval's and MMLU's own words; of C-Eval's, the subject's name is that of its file.
CEVAL = Style("以下是中国关于{subject}考试的单项选择题，请选出其中的正确答案。\n\n", "答案：", "")
MMLU = Style("The following are multiple choice questions (with answers) about {subject}.\n\n", "Answer:", " ")


@dataclass(frozen=True)
class Question:
    """A question, its options in order of their letters, and the index of the right one."""

    text: str
    options: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class Subject:
    """The questions of one subject, and those that may be shown with their answers before each."""

    name: str
    style: Style
    questions: tuple[Question, ...]
    examples: tuple[Question, ...]


def read_subjects(path: Path, *, shots: int, limit: int | None) -> list[Subject]:
    """The subjects of a file, at most ``limit`` questions of each, sorted by name.

    A zip holds csv or jsonl files in the folders ``val`` (or ``test``) and ``dev``, named ``<subject>_<folder>``. The
    examples of a single file ``x_test.csv`` are those of ``x_dev.csv``, beside it or in the folder ``dev`` beside its
    own. Raises UserError for files that are not so, and for more shots than there are examples.
    """
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit}: at least one question of each subject is wanted")
    if shots < 0:
        raise UserError(f"--shots {shots}: a number of examples is wanted, 0 or more")
    subjects = [
        Subject(name, style, tuple(asked[:limit]), tuple(examples[:shots]))
        for name, style, asked, examples in (_of_zip(path) if path.suffix == ".zip" else _of_file(path, shots))
    ]
    for subject in subjects:
        if len(subject.examples) < shots:
            raise UserError(
                f"{path}: {subject.name} has {len(subject.examples)} questions in its {_SHOTS} file, "
                f"too few for --shots {shots}"
            )
    return sorted(subjects, key=lambda subject: subject.name)


_Found = tuple[str, Style, list[Question], list[Question]]


def _of_zip(path: Path) -> Iterator[_Found]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [name for name in archive.namelist() if PurePosixPath(name).suffix in _KINDS]
            texts = {name: archive.read(name) for name in members if not name.startswith("__MACOSX")}
    except (OSError, zipfile.BadZipFile, RuntimeError) as error:
        raise UserError(f"{path}: cannot be read as a zip file ({error})") from error
    by_folder: dict[str, dict[str, str]] = {}
    for name in texts:
        folder = PurePosixPath(name).parent.name
        by_folder.setdefault(folder, {})[_subject(name, folder)] = name
    asked_folder = next((name for name in _SCORED if name in by_folder), None)
    if asked_folder is None:
        raise UserError(f"{path}: no csv or jsonl files in a folder {' or '.join(_SCORED)}")
    for subject, name in by_folder[asked_folder].items():
        style, asked = _parse(texts[name], f"{path}: {name}")
        examples = by_folder.get(_SHOTS, {}).get(subject)
        yield subject, style, asked, _parse(texts[examples], f"{path}: {examples}")[1] if examples else []


def _of_file(path: Path, shots: int) -> Iterator[_Found]:
    if path.suffix not in _KINDS:
        raise UserError(f"{path}: questions come as .zip, {' or '.join(_KINDS)}")
    folder = next((part for part in _SCORED if path.stem.endswith(f"_{part}")), path.parent.name)
    subject = _subject(path.name, folder)
    style, asked = _parse(_read(path), str(path))
    name = f"{subject}_{_SHOTS}{path.suffix}"
    places = [path.with_name(name), path.parent.parent / _SHOTS / name]
    shown = next((place for place in places if shots and place.is_file()), None)
    if shots and shown is None:
        raise UserError(f"{path}: no examples for --shots {shots}: there is neither {' nor '.join(map(str, places))}")
    yield subject, style, asked, _parse(_read(shown), str(shown))[1] if shown else []


def _subject(name: str, folder: str) -> str:
    return PurePosixPath(name).stem.removesuffix(f"_{folder}")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _parse(data: bytes, source: str) -> tuple[Style, list[Question]]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{source}: not UTF-8 ({error})") from error
    style, questions = _of_json(text, source) if source.endswith(".jsonl") else _of_csv(text, source)
    if not questions:
        raise UserError(f"{source}: no question in it")
    return style, questions


def _of_csv(text: str, source: str) -> tuple[Style, list[Question]]:
    """With C-Eval's header (id, question, A, B, C, D, answer, …), or MMLU's six columns without one."""
    reader = csv.reader(io.StringIO(text, newline=""))
    rows = [(reader.line_num, row) for row in reader if row]
    header = rows[0][1] if rows else []
    if "question" not in header:
        return MMLU, [_question(row[:1], row[1:-1], row[-1:], f"{source}:{line}") for line, row in rows]
    wanted = ("question", *LETTERS[:4], "answer")
    if missing := [name for name in wanted if name not in header]:
        raise UserError(f"{source}:1: no column {', '.join(missing)}")
    questions = []
    for line, row in rows[1:]:
        if len(row) != len(header):
            raise UserError(f"{source}:{line}: {len(row)} columns, the header has {len(header)}")
        record = dict(zip(header, row, strict=True))
        options = [record[letter] for letter in LETTERS[:4]]
        questions.append(_question([record["question"]], options, [record["answer"]], f"{source}:{line}"))
    return CEVAL, questions


def _of_json(text: str, source: str) -> tuple[Style, list[Question]]:
    """Objects with question, choices (a list) or A, B, …, and answer: a letter, or the index of a choice."""
    questions = []
    for line, content in enumerate(text.splitlines(), 1):
        place = f"{source}:{line}"
        try:
            record = json.loads(content) if content.strip() else None
        except ValueError as error:
            raise UserError(f"{place}: not JSON ({error})") from error
        if record is not None:
            questions.append(_of_record(record, place))
    return MMLU, questions


def _of_record(record: Any, place: str) -> Question:
    if not isinstance(record, Mapping) or "question" not in record or "answer" not in record:
        raise UserError(f"{place}: an object with question, choices and answer is wanted")
    options = record.get("choices") or [record[letter] for letter in LETTERS if letter in record]
    if not isinstance(options, list):
        raise UserError(f"{place}: choices are a list, not {options!r}")
    answer = record["answer"]
    if isinstance(answer, int) and 0 <= answer < len(LETTERS):
        answer = LETTERS[answer]
    return _question([record["question"]], options, [answer], place)


def _question(text: Sequence[Any], options: Sequence[Any], answer: Sequence[Any], place: str) -> Question:
    parts = [*text, *options, *answer]
    if not 2 <= len(options) <= len(LETTERS) or not all(isinstance(part, str) for part in parts):
        raise UserError(f"{place}: a question, two to {len(LETTERS)} options and the answer's letter are wanted")
    letter = str(answer[0]).strip()
    if len(letter) != 1 or letter not in LETTERS[: len(options)]:
        raise UserError(f"{place}: the answer is {letter!r}, not one of {', '.join(LETTERS[: len(options)])}")
    return Question(str(text[0]), tuple(options), LETTERS.index(letter))
