"""Calibration data: every form of file, how samples are made of texts, and what is refused."""

from __future__ import annotations

import gzip
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from support.checkpoints import write_checkpoint

from vamc_py.checkpoint import Checkpoint, open_checkpoint
from vamc_py.config.dataset import Dataset
from vamc_py.config.load import load_text
from vamc_py.errors import ConfigError
from vamc_py.quant import dataset as dataset_module
from vamc_py.quant import readers
from vamc_py.quant.dataset import calibration_tokens
from vamc_py.quant.faults import CalibrationError, with_places

ALPACA = [
    {"instruction": f"Say number {number}.", "input": "now" if number % 2 else "", "output": f"It is {number} and on."}
    for number in range(30)
]
SHAREGPT = [
    {"conversations": [{"from": "human", "value": f"hi {number}"}, {"from": "gpt", "value": "there"}]}
    for number in range(30)
]
LINES = [{"text": f"the end of line {number}, and another thing", "body": f"body {number}"} for number in range(30)]
CHOICES = "A. one\nB. two\nC. three\nD. four"
HEADER = "id,question,A,B,C,D,answer,explanation\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(path, architecture="qwen2", layers=1)
    return path


@pytest.fixture
def checkpoint(folder: Path) -> Checkpoint:
    return open_checkpoint(str(folder), "huggingface")


@pytest.fixture
def decode(folder: Path) -> Callable[[np.ndarray], list[str]]:
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    return lambda samples: [tokenizer.decode(list(map(int, row))) for row in samples]


def json_lines(records: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def write_ceval(path: Path, *splits: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for split in splits:
            answer = "" if split == "test" else ",B,because"
            header = HEADER if answer else HEADER.replace(",answer,explanation", "")
            rows = [f'{number},"问题{split}, {number}?",one,two,three,four{answer}\n' for number in range(8)]
            archive.writestr(f"{split}/law_{split}.csv", header + "".join(rows))


def write_all(folder: Path) -> dict[str, Path]:
    """A small file of each form."""
    (folder / "alpaca.json").write_text(json.dumps(ALPACA, indent=1))
    (folder / "c4.json.gz").write_bytes(gzip.compress(json_lines([line | {"timestamp": ""} for line in LINES])))
    (folder / "sharegpt.json").write_text(json.dumps(SHAREGPT))
    (folder / "plain.txt").write_text("".join(f"the plain line {number}\n" for number in range(90)))
    (folder / "any.jsonl").write_bytes(json_lines(LINES))
    write_ceval(folder / "ceval.zip", "dev", "val", "test")
    names = ("alpaca.json", "c4.json.gz", "ceval.zip", "sharegpt.json", "plain.txt", "any.jsonl")
    return dict(zip(readers.READERS, (folder / name for name in names), strict=True))


EXPECTED = {
    "alpaca": ["Say number 3.\nnow\nIt is 3 and on.", "Say number 2.\nIt is 2 and on."],
    "c4": ["the end of line 7, and another thing"],
    "ceval": [f"问题dev, 1?\n{CHOICES}\n答案：B", f"问题test, 2?\n{CHOICES}"],
    "sharegpt": ["hi 4\nthere"],
    "text": ["the plain line 8\n"],
    "jsonl": ["the end of line 7, and another thing"],
}


@pytest.mark.parametrize("named", ["lower", "UPPER", None])
@pytest.mark.parametrize("kind", readers.READERS)
def test_each_form_is_read(
    checkpoint: Checkpoint,
    tmp_path: Path,
    decode: Callable[[np.ndarray], list[str]],
    kind: str,
    named: str | None,
) -> None:
    path = write_all(tmp_path)[kind]
    name = {"lower": kind, "UPPER": kind.upper(), None: None}[named]
    found = calibration_tokens(checkpoint, Dataset(name=name, path=str(path), nsamples=3, seqlen=100))
    assert found.shape == (3, 100)
    assert found.dtype == np.int64
    texts = list(readers.texts(path, kind, "text"))
    for expected in EXPECTED[kind]:
        assert any(expected in text for text in texts)
    if kind != "text":  # one long text there, many short ones here
        everything = "\n\n".join(texts)
        for sample in decode(found):
            assert all(part in everything for part in sample.strip("\ufffd").split("\n\n"))


def test_the_answers_of_val_are_left_for_the_evaluation(tmp_path: Path) -> None:
    write_ceval(tmp_path / "exam.zip", "dev", "val", "test")
    found = "".join(readers.texts(tmp_path / "exam.zip", "ceval", "text"))
    assert "问题val" not in found
    assert found.count("问题test") == 8


def test_a_folder_of_unpacked_files_will_do(checkpoint: Checkpoint, tmp_path: Path) -> None:
    write_ceval(tmp_path / "exam.zip", "dev", "val", "test")
    with zipfile.ZipFile(tmp_path / "exam.zip") as archive:
        archive.extractall(tmp_path / "exam")
    settings = {"nsamples": 2, "seqlen": 50}
    packed = calibration_tokens(checkpoint, Dataset(path=str(tmp_path / "exam.zip"), **settings))
    unpacked = calibration_tokens(checkpoint, Dataset(path=str(tmp_path / "exam"), **settings))
    np.testing.assert_array_equal(unpacked, packed)


def test_a_folder_of_shards_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_bytes(json_lines(LINES[10:]))
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(json_lines(LINES[:10])))
    (tmp_path / "README").write_text("not this")
    assert list(readers.texts(tmp_path, "c4", "text")) == [line["text"] for line in LINES]


def test_the_key_of_the_text_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "any.jsonl").write_bytes(json_lines(LINES))
    assert list(readers.texts(tmp_path / "any.jsonl", "jsonl", "body"))[4] == "body 4"


@pytest.mark.parametrize(("kind", "length"), [("alpaca", 512), ("c4", 1024), ("ceval", 128), ("text", 512)])
def test_defaults(checkpoint: Checkpoint, tmp_path: Path, kind: str, length: int) -> None:
    path = tmp_path / "data"
    if kind == "ceval":
        (path / "dev").mkdir(parents=True)
        (path / "dev" / "law.csv").write_text(HEADER + '0,"' + "what? " * 9000 + '",a,b,c,d,A,x\n')
    else:
        record = {"instruction": "go on", "output": "word " * 70000, "text": "word " * 70000}
        path.write_text(json.dumps([record]) if kind != "text" else record["text"])
    assert calibration_tokens(checkpoint, Dataset(name=kind, path=str(path))).shape == (128, length)


def test_the_seed_decides(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = write_all(tmp_path)["c4"]
    settings: dict[str, Any] = {"path": str(path), "nsamples": 4, "seqlen": 60}
    first, again, zero, other = (
        calibration_tokens(checkpoint, Dataset(**settings, seed=seed)) for seed in (None, None, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, zero)
    assert (first != other).any()


def test_special_tokens_in_a_text_are_plain_text(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("<|im_end|>" * 100)
    found = calibration_tokens(checkpoint, Dataset(path=str(tmp_path / "a.txt"), nsamples=2, seqlen=50))
    assert found.max() < checkpoint.config["bos_token_id"]


def test_half_a_character_is_replaced(
    checkpoint: Checkpoint, tmp_path: Path, decode: Callable[[np.ndarray], list[str]]
) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "broken \\ud83d emoji"}\n')
    [found] = decode(calibration_tokens(checkpoint, Dataset(path=str(tmp_path / "a.jsonl"), nsamples=1, seqlen=12)))
    assert found in "broken ? emoji"
    assert "?" in found


def test_a_large_json_list_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "_CHUNK", 7)
    (tmp_path / "a.json").write_text("\n " + json.dumps(ALPACA, indent=2) + "\n")
    assert [record for _, record in readers.records(tmp_path / "a.json")] == ALPACA
    (tmp_path / "empty.json").write_text("[ ]")
    assert list(readers.records(tmp_path / "empty.json")) == []


def test_a_plain_text_comes_in_pieces_that_end_with_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "_CHUNK", 21)
    text = "one two three\nfour\n\nfive six seven eight\nnine"
    (tmp_path / "a.txt").write_text(text)
    pieces = list(readers.texts(tmp_path / "a.txt", "text", ""))
    assert "".join(pieces) == text
    assert len(pieces) == 2
    assert all(piece.endswith("\n") for piece in pieces[:-1])


# How samples are made, on numbers in place of tokens.


def draw(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_long_texts_give_a_window_and_later_what_is_left() -> None:
    samples = dataset_module._samples([list(range(10)), list(range(100, 110))], 4, 4, [-1], draw())
    assert len(samples) == 4
    assert samples[0] == list(range(samples[0][0], samples[0][0] + 4))
    assert samples[1][0] >= 100  # each text once before any is used again
    used = [number for sample in samples for number in sample if number >= 0]
    assert len(set(used)) == len(used)


def test_short_texts_are_put_together() -> None:
    samples = dataset_module._samples([[1, 2], [], [3], [4, 5, 6], [7]], 9, 4, [0], draw())
    assert samples == [[1, 2, 0, 3], [4, 5, 6, 0]]


@given(st.lists(st.integers(0, 40)), st.integers(1, 12), st.integers(1, 12), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_no_token_is_used_twice_and_few_are_lost(lengths: list[int], length: int, count: int, seed: int) -> None:
    numbers = iter(range(10_000))
    texts = [[next(numbers) for _ in range(size)] for size in lengths]
    samples = dataset_module._samples(texts, count, length, [], draw(seed))
    assert all(len(sample) == length for sample in samples)
    used = [number for sample in samples for number in sample]
    assert len(set(used)) == len(used)
    assert len(samples) == min(count, sum(lengths) // length)


def test_texts_are_drawn_from_all_places_within_bounded_memory() -> None:
    drawn = dataset_module._drawn((f"{number:04d}" for number in range(5000)), 400, draw())
    assert len(drawn) == 100
    assert sum(int(text) < 2500 for text in drawn) == pytest.approx(50, abs=20)
    assert drawn != sorted(drawn)
    assert drawn == dataset_module._drawn((f"{number:04d}" for number in range(5000)), 400, draw())
    assert set(dataset_module._drawn(iter(["a", "b"]), 400, draw())) == {"a", "b"}


# Refusals.


def refused(checkpoint: Checkpoint, **settings: Any) -> str:
    with pytest.raises(CalibrationError) as caught:
        calibration_tokens(checkpoint, Dataset(**settings))
    message = str(caught.value)
    assert "\n" not in message
    return message


BAD_FILES: dict[str, tuple[str, bytes, str | None, str]] = {
    "no record": ("a.jsonl", b"", "jsonl", "no text in it"),
    "white space": ("a.txt", b" \n \n", "text", "no text in it"),
    "bad line": ("a.jsonl", b'{"text": "x"}\n{"text"\n', "jsonl", "line 2 is no JSON"),
    "no object": ("a.jsonl", b'{"text": "x"}\n[1]\n', "jsonl", "record 2 is no JSON object"),
    "no key": ("a.jsonl", b'{"body": "x"}\n', "jsonl", r"record 1 has no text under 'text' \(its keys: body\)"),
    "no answer": ("a.json", b'[{"instruction": "x"}]', "alpaca", "record 1 has no text under 'output'"),
    "no turns": ("a.json", b'[{"conversations": "x"}]', "sharegpt", "record 1 has no list of turns"),
    "cut list": ("a.json", b'[{"instruction": "x", "output": "y"}, {"ins', "alpaca", "the JSON list is damaged"),
    "cut gzip": ("a.json.gz", gzip.compress(json_lines(LINES))[:-9], "c4", "the archive is damaged"),
    "no zip": ("a.zip", b"PK", "ceval", "the archive is damaged"),
    "nested": ("a.jsonl", b'{"text": ' + b"[" * 100_000 + b"\n", "jsonl", "nested too deep"),
    "no utf-8": ("a.txt", b"ab\xff\xfe", "text", "not UTF-8 text"),
    "untold": ("a.bin", b"ab", None, "does not tell what it is; write one of alpaca, c4"),
    "unknown keys": ("a.jsonl", b'{"body": "x"}\n', None, "does not tell what it is"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_named(checkpoint: Checkpoint, tmp_path: Path, name: str) -> None:
    file, content, kind, message = BAD_FILES[name]
    (tmp_path / file).write_bytes(content)
    found = refused(checkpoint, name=kind, path=str(tmp_path / file))
    assert re.search(message, found)
    assert str(tmp_path / file) in found


def test_a_zip_without_questions_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    write_ceval(tmp_path / "exam.zip", "val")
    assert "holds no csv files in dev or test" in refused(checkpoint, path=str(tmp_path / "exam.zip"))
    with zipfile.ZipFile(tmp_path / "exam.zip", "w") as archive:
        archive.writestr("dev/law.csv", "id,question\n1,what?\n")
    message = refused(checkpoint, path=str(tmp_path / "exam.zip"))
    assert "dev/law.csv has a row without question, A, B, C and D" in message


@pytest.mark.parametrize("name", [None, "c4", "text"])
def test_a_missing_file_is_named(checkpoint: Checkpoint, tmp_path: Path, name: str | None) -> None:
    message = refused(checkpoint, name=name, path=str(tmp_path / "none.txt"))
    assert message.startswith(f"dataset.path: {tmp_path / 'none.txt'}: there is no such file")


def test_a_file_that_may_not_be_read_is_named(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("text")

    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    message = refused(checkpoint, path=str(tmp_path / "a.txt"))
    assert message.endswith("a.txt: cannot be read: Permission denied")


def test_a_folder_without_files_is_named(checkpoint: Checkpoint, tmp_path: Path) -> None:
    assert "the folder holds no file that ends in .json, " in refused(checkpoint, name="c4", path=str(tmp_path))
    assert "does not tell what it is" in refused(checkpoint, path=str(tmp_path))


def test_too_little_text_is_counted(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("xyz " * 50)
    message = refused(checkpoint, path=str(tmp_path / "a.txt"), nsamples=5, seqlen=64)
    assert message.startswith("dataset.nsamples: ")
    assert "the text is enough for 3 samples of 64 tokens, and 5 are wanted" in message


def test_settings_that_are_missing_or_wrong(checkpoint: Checkpoint) -> None:
    assert refused(checkpoint).startswith("dataset.path: missing")
    assert refused(checkpoint, type="tvm", path="a").startswith("dataset.type: tvm means image files")
    assert "did you mean alpaca?" in refused(checkpoint, name="alpacca", path="a")
    with pytest.raises(CalibrationError, match=r"^dataset: missing"):
        calibration_tokens(checkpoint, None)


@pytest.mark.parametrize("settings", [{"seed": -1}, {"text_key": ""}, {"nsamples": 0}, {"seqlen": 0}])
def test_values_that_make_no_sense(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Dataset(**settings)


def test_a_fault_has_its_place_in_the_yaml(checkpoint: Checkpoint, tmp_path: Path) -> None:
    text = f"""\
name: model
frontend: {{checkpoint: {tmp_path}, shape: {{input_ids: [[16], [32]]}}}}
backend: {{type: tvm_llvm, dtype: int8}}
dataset:
  name: C4
  path: none.json.gz
  text_key: text
  seed: 3
"""
    loaded = load_text(text, Path("model.yaml"))
    with pytest.raises(ConfigError) as caught, with_places(loaded):
        calibration_tokens(checkpoint, loaded.config.dataset)
    assert str(caught.value).startswith("model.yaml:6:9: dataset.path: none.json.gz: there is no such file")
