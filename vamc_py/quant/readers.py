"""Texts out of the files that calibration data comes in, one after the other, so that a large file takes no memory."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from vamc_py.quant.faults import CalibrationError

PATH_KEY = "dataset.path"
_RECORD_ENDINGS = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
_TEXT_ENDINGS = (".txt", ".raw", ".text", ".md")
_CHUNK = 1 << 20  # characters read at a time
_CHOICES = ("A", "B", "C", "D")

Record = dict[str, Any]


def alpaca(path: Path, text_key: str) -> Iterator[str]:
    """Instruction, input and answer of each record, a line each."""
    for number, record in records(path):
        parts = [_text_of(record, "instruction", path, number), record.get("input")]
        parts.append(_text_of(record, "output", path, number))
        yield "\n".join(part for part in parts if isinstance(part, str) and part)


def sharegpt(path: Path, text_key: str) -> Iterator[str]:
    """The turns of each conversation, one below the other."""
    for number, record in records(path):
        turns = record.get("conversations")
        if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
            raise _bad(path, f"record {number} has no list of turns under 'conversations'")
        yield "\n".join(_text_of(turn, "value", path, number) for turn in turns)


def keyed(path: Path, text_key: str) -> Iterator[str]:
    """What stands under the key in each record: c4, and any JSON lines."""
    for number, record in records(path):
        yield _text_of(record, text_key, path, number)


def plain(path: Path, text_key: str) -> Iterator[str]:
    """Pieces of text files, cut at ends of lines."""
    for file in _files(path, _TEXT_ENDINGS):
        with _opened(file) as stream:
            while piece := stream.read(_CHUNK):
                yield piece + stream.readline(_CHUNK)


def ceval(path: Path, text_key: str) -> Iterator[str]:
    """Questions of C-Eval with their choices, and the answer where it is given: the csv files of dev and test.

    Those of val, whose answers are public, are left for the evaluation.
    """
    found = False
    for name, stream in _csv_files(path):
        found = True
        for row in csv.DictReader(stream):
            if any(not isinstance(row.get(key), str) for key in ("question", *_CHOICES)):
                raise _bad(path, f"{name} has a row without question, A, B, C and D")
            lines = [row["question"], *(f"{choice}. {row[choice]}" for choice in _CHOICES)]
            yield "\n".join([*lines, f"答案：{row['answer']}"] if row.get("answer") else lines)
    if not found:
        raise _bad(path, "holds no csv files in dev or test; name C-Eval's zip, or the folder that it unpacks to")


Reader = Callable[[Path, str], Iterator[str]]
READERS: dict[str, Reader] = {
    "alpaca": alpaca,
    "c4": keyed,
    "ceval": ceval,
    "sharegpt": sharegpt,
    "text": plain,
    "jsonl": keyed,
}


def texts(path: Path, kind: str, text_key: str) -> Iterator[str]:
    """The texts of a file or folder; ``text_key`` is for c4 and jsonl. CalibrationError for what cannot be read."""
    with _faults_of(path):
        yield from READERS[kind](path, text_key)


def kind_of(path: Path, text_key: str) -> str | None:
    """Which of READERS a file is for, by its ending and its first record; None: it does not tell."""
    name = path.name.lower()
    if path.is_dir():
        return "ceval" if (path / "dev").is_dir() or (path / "test").is_dir() else None
    if name.endswith(".zip"):
        return "ceval"
    if name.endswith(_TEXT_ENDINGS):
        return "text"
    if not name.endswith(_RECORD_ENDINGS):
        return None
    with _faults_of(path):
        _, record = next(records(path), (0, {}))
    kinds = {"conversations": "sharegpt", "instruction": "alpaca", "timestamp": "c4", text_key: "jsonl"}
    return next((kind for key, kind in kinds.items() if key in record), None)


def records(path: Path) -> Iterator[tuple[int, Record]]:
    """Number, from 1, and content of the objects in JSON files: a list of them, or one a line; gzip or not."""
    for file in _files(path, _RECORD_ENDINGS):
        with _opened(file) as stream:
            start = stream.read(1)
            while start.isspace():
                start = stream.read(1)
            found = _of_list(stream, file) if start == "[" else _of_lines(start, stream, file)
            for number, record in enumerate(found, 1):
                if not isinstance(record, dict):
                    raise _bad(file, f"record {number} is no JSON object")
                yield number, record


def _of_lines(start: str, stream: IO[str], path: Path) -> Iterator[object]:
    for number, line in enumerate(stream, 1):
        content, start = start + line, ""
        if content.strip():
            try:
                yield json.loads(content)
            except ValueError as error:
                raise _bad(path, f"line {number} is no JSON ({error}); one object a line, or one list") from error


def _of_list(stream: IO[str], path: Path) -> Iterator[object]:
    """The items of a JSON list whose bracket was read, without the whole of it in memory."""
    decoder, text, at = json.JSONDecoder(), "", 0
    while True:
        while at < len(text) and (text[at].isspace() or text[at] == ","):
            at += 1
        if text[at : at + 1] == "]":
            return
        try:
            item, at = decoder.raw_decode(text, at)
        except ValueError as error:  # most often: the item goes on in what is not read yet
            more = stream.read(max(_CHUNK, len(text) - at))
            if not more:
                raise _bad(path, f"the JSON list is damaged ({error})") from error
            text, at = text[at:] + more, 0
        else:
            yield item


def _text_of(record: Record, key: str, path: Path, number: int) -> str:
    text = record.get(key)
    if not isinstance(text, str):
        known = ", ".join(map(str, record)) or "none"
        raise _bad(path, f"record {number} has no text under {key!r} (its keys: {known})")
    return text


def _csv_files(path: Path) -> Iterator[tuple[str, IO[str]]]:
    """Names and contents of the csv files in folders called dev and test, of a zip or a folder."""
    if path.is_dir():
        for file in sorted(path.rglob("*.csv")):
            if file.parent.name in ("dev", "test"):
                with file.open(encoding="utf-8-sig", newline="") as stream:
                    yield file.name, stream
        return
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            parts = name.split("/")
            if name.endswith(".csv") and len(parts) > 1 and parts[-2] in ("dev", "test"):
                with archive.open(name) as packed, io.TextIOWrapper(packed, "utf-8-sig", newline="") as stream:
                    yield name, stream


def _files(path: Path, endings: tuple[str, ...]) -> list[Path]:
    """The file, or those of a folder that end so, in the order of their names."""
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.iterdir() if file.name.lower().endswith(endings))
    if not found:
        raise _bad(path, f"the folder holds no file that ends in {', '.join(endings)}")
    return found


@contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    """A file as UTF-8 text, unpacked where it is gzip."""
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        content: Any = gzip.GzipFile(fileobj=raw) if packed else raw
        with io.TextIOWrapper(content, encoding="utf-8-sig") as stream:
            yield stream


@contextmanager
def _faults_of(path: Path) -> Iterator[None]:
    """What the libraries say of damaged files, in one sentence."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile) as error:
        raise _bad(path, f"the archive is damaged ({error}); fetch it again") from error
    except UnicodeDecodeError as error:
        raise _bad(path, f"not UTF-8 text ({error.reason})") from error
    except RecursionError as error:
        raise _bad(path, "JSON that is nested too deep") from error
    except csv.Error as error:
        raise _bad(path, f"not a csv file ({error})") from error
    except OSError as error:
        raise _bad(path, f"cannot be read: {error.strerror or error}") from error


def _bad(path: Path, what: str) -> CalibrationError:
    return CalibrationError(PATH_KEY, f"{path}: {what}")
