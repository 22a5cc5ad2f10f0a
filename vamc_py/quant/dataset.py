"""Calibration data: the section ``dataset`` of the YAML, and the tokens that it stands for."""

from __future__ import annotations

import heapq
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tokenizers

from vamc_py.checkpoint import Checkpoint
from vamc_py.config.dataset import Dataset
from vamc_py.config.faults import did_you_mean
from vamc_py.errors import CheckpointError
from vamc_py.progress import track
from vamc_py.quant.faults import CalibrationError
from vamc_py.quant.readers import PATH_KEY, READERS, kind_of, texts

DEFAULT_SAMPLES = 128
DEFAULT_LENGTH = 512
DEFAULT_LENGTHS = {"alpaca": 512, "c4": 1024, "ceval": 128}
_CHARACTERS = 16  # kept for each token wanted: several times as many as a token has
_SEPARATOR = "\n\n"

Encode = Callable[[str], list[int]]


def wanted_samples(dataset: Dataset | None) -> tuple[int, int]:
    """(number of samples, tokens of each), as far as the section alone tells them: no file is read."""
    given = dataset or Dataset()
    return _wanted(given, (given.name or "").lower())


def _wanted(dataset: Dataset, kind: str) -> tuple[int, int]:
    return dataset.nsamples or DEFAULT_SAMPLES, dataset.seqlen or DEFAULT_LENGTHS.get(kind, DEFAULT_LENGTH)


def calibration_tokens(checkpoint: Checkpoint, dataset: Dataset | None) -> npt.NDArray[np.int64]:
    """Samples i64 [nsamples, seqlen], the same for the same data, tokenizer and settings.

    Texts are drawn at random. One with at least ``seqlen`` tokens gives a random window of itself; shorter ones are
    put together, an empty line between them, and cut into samples. What the windows leave of the long texts is used in
    the same way once the texts are used up. No special token is added, and those in the texts are plain text.
    CalibrationError with the key that is at fault, for data that is missing, damaged, of no known form, or too little.
    """
    if dataset is None:
        raise CalibrationError("dataset", "missing; calibration needs text: name, path, nsamples and seqlen")
    if dataset.type == "tvm":
        raise CalibrationError("dataset.type", "tvm means image files; a language model needs text: huggingface")
    if dataset.path is None:
        raise CalibrationError(PATH_KEY, "missing; name the file with the calibration data")
    path = Path(dataset.path)
    text_key = dataset.text_key or "text"
    kind = _kind(dataset, path, text_key)
    count, length = _wanted(dataset, kind)
    draw = np.random.default_rng(dataset.seed or 0)
    pieces = _pieces(track(texts(path, kind, text_key), "calibration texts"), _CHARACTERS * length)
    drawn = _drawn(pieces, _CHARACTERS * length * count, draw)
    if not drawn:
        raise CalibrationError(PATH_KEY, f"{path}: no text in it; name another file")
    encode = _encoder(checkpoint)
    samples = _samples(map(encode, drawn), count, length, encode(_SEPARATOR), draw)
    if len(samples) < count:
        message = f"{path}: the text is enough for {len(samples)} samples of {length} tokens, and {count} are wanted"
        raise CalibrationError("dataset.nsamples", f"{message}; lower nsamples or seqlen, or give more text")
    return np.array(samples, dtype=np.int64)


def _kind(dataset: Dataset, path: Path, text_key: str) -> str:
    """Which of READERS; also says that there is no such file, which a guess by its name would hide."""
    known = ", ".join(READERS)
    kind = None if dataset.name is None else dataset.name.lower()
    if kind is not None and kind not in READERS:
        raise CalibrationError("dataset.name", f"{dataset.name!r} is not one of {known}{did_you_mean(kind, READERS)}")
    if not path.exists():
        message = f"{path}: there is no such file or folder; a relative path starts at the current directory"
        raise CalibrationError(PATH_KEY, message)
    kind = kind or kind_of(path, text_key)
    if kind is None:
        raise CalibrationError("dataset.name", f"{path} does not tell what it is; write one of {known}")
    return kind


def _encoder(checkpoint: Checkpoint) -> Encode:
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save_tokenizer(Path(folder))
        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
        except Exception as error:  # the library raises plain Exception
            raise CheckpointError(f"{checkpoint.path}: the tokenizer cannot be read ({error})") from error
    tokenizer.no_truncation()  # a file may carry the length limit of a training run
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True

    def encode(text: str) -> list[int]:
        whole = text.encode("utf-8", "replace").decode()  # JSON may hold halves of characters
        return list(tokenizer.encode(whole, add_special_tokens=False).ids)

    return encode


def _pieces(texts: Iterable[str], size: int) -> Iterator[str]:
    """The texts, long ones in pieces of at most ``size`` characters; those of white space are left out."""
    for text in texts:
        for start in range(0, len(text), size):
            piece = text[start : start + size]
            if not piece.isspace():
                yield piece


def _drawn(texts: Iterable[str], characters: int, draw: np.random.Generator) -> list[str]:
    """Texts drawn at random until they have so many characters, or all; only about that much is in memory."""
    heap: list[tuple[float, int, str]] = []  # the texts with the least random numbers, the largest of these first
    total = 0
    for index, text in enumerate(texts):
        heapq.heappush(heap, (-draw.random(), index, text))
        total += len(text)
        while total - len(heap[0][2]) >= characters:
            total -= len(heapq.heappop(heap)[2])
    return [text for _, _, text in sorted(heap, reverse=True)]


def _samples(
    encoded: Iterable[list[int]], count: int, length: int, separator: list[int], draw: np.random.Generator
) -> list[list[int]]:
    """At most ``count`` samples of ``length`` tokens."""
    samples: list[list[int]] = []
    short: list[int] = []
    rest: deque[list[int]] = deque()
    for ids in _and_then(encoded, rest):
        if len(ids) >= length:
            start = int(draw.integers(len(ids) - length + 1))
            samples.append(ids[start : start + length])
            rest.extend(part for part in (ids[:start], ids[start + length :]) if part)
        elif ids:
            short += separator + ids if short else ids
            if len(short) >= length:
                samples.append(short[:length])
                short = short[length:]
        if len(samples) == count:
            break
    return samples


def _and_then(first: Iterable[list[int]], rest: deque[list[int]]) -> Iterator[list[int]]:
    """All of ``first``, then what was put into ``rest`` meanwhile, and goes on being put there."""
    yield from first
    while rest:
        yield rest.popleft()
