"""Files of questions: what is read of each form, and what is refused."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from vamc_py.errors import UserError
from vamc_py.evaluation.questions import CEVAL, MMLU, Question, read_subjects

HEADER = "id,question,A,B,C,D,answer\n"


def ceval_zip(path: Path, **members: str) -> Path:
    """A zip with ``val_x="…"`` as val/x_val.csv."""
    with zipfile.ZipFile(path, "w") as archive:
        for key, content in members.items():
            folder, _, subject = key.partition("_")
            archive.writestr(f"{folder}/{subject}_{folder}.csv", content)
    return path


def test_ceval_zip(tmp_path: Path) -> None:
    path = ceval_zip(
        tmp_path / "ceval.zip",
        val_physics=HEADER + '0,"光的, ""速度""\n是？",1,2,3,4,C\n1,又？,a,b,c,d,A\n2,third,a,b,c,d,B\n',
        val_art=HEADER + "0,谁？,e,f,g,h,D\n",
        dev_physics="id,question,A,B,C,D,answer,explanation\n0,例,5,6,7,8,B,因为\n1,例二,5,6,7,8,A,x\n",
        dev_art=HEADER + "0,例,1,2,3,4,A\n",
        test_art=HEADER.replace(",answer", "") + "0,q,1,2,3,4\n",  # C-Eval's test questions have no answers
    )
    art, physics = read_subjects(path, shots=1, limit=2)
    assert (art.name, physics.name, physics.style) == ("art", "physics", CEVAL)
    assert physics.questions == (
        Question('光的, "速度"\n是？', ("1", "2", "3", "4"), 2),
        Question("又？", tuple("abcd"), 0),
    )
    assert physics.examples == (Question("例", ("5", "6", "7", "8"), 1),)
    with pytest.raises(UserError, match="art has 1 questions in its dev file, too few for --shots 2"):
        read_subjects(path, shots=2, limit=None)


def test_mmlu_csv_finds_its_examples(tmp_path: Path) -> None:
    for folder, content in (("test", "Q one?,1,2,3,4,B\n\nQ two?,5,6,7,8,D\n"), ("dev", "E?,1,2,3,4,C\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"anatomy_{folder}.csv").write_text(content)
    [subject] = read_subjects(tmp_path / "test" / "anatomy_test.csv", shots=1, limit=None)
    assert (subject.name, subject.style) == ("anatomy", MMLU)
    assert [question.answer for question in subject.questions] == [1, 3]
    assert subject.examples == (Question("E?", ("1", "2", "3", "4"), 2),)
    (tmp_path / "dev" / "anatomy_dev.csv").unlink()
    assert read_subjects(tmp_path / "test" / "anatomy_test.csv", shots=0, limit=1)[0].examples == ()
    with pytest.raises(UserError, match=r"no examples for --shots 1: there is neither .*anatomy_dev\.csv nor "):
        read_subjects(tmp_path / "test" / "anatomy_test.csv", shots=1, limit=None)


def test_jsonl_with_letters_or_indices(tmp_path: Path) -> None:
    records = [
        {"question": "a?", "choices": ["x", "y", "z"], "answer": 2, "subject": "ignored"},
        {"question": "b?", "A": "x", "B": "y", "answer": "B"},
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, records)) + "\n\n")
    [subject] = read_subjects(path, shots=0, limit=None)
    assert subject.questions == (Question("a?", ("x", "y", "z"), 2), Question("b?", ("x", "y"), 1))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "q,1,2,3,4,E\n", r"a\.csv:1: the answer is 'E', not one of A, B, C, D"),
        ("a.csv", "q,1,2,3,4,AB\n", "the answer is 'AB'"),
        ("a.csv", "q,A\n", "two to 10 options"),
        ("a.csv", "", "no question in it"),
        ("a.csv", b"\xff\xfe", "not UTF-8"),
        ("a.csv", "id,question,A,B,answer\n0,q,1,2,A\n", r"a\.csv:1: no column C, D"),
        ("a.csv", HEADER + "0,q,1,2,3,4,A\n1,q,1,2,3,A\n", r"a\.csv:3: 6 columns, the header has 7"),
        ("a.jsonl", '{"question": "q"}', r"a\.jsonl:1: an object with question, choices and answer is wanted"),
        ("a.jsonl", "[1]", "an object with question"),
        ("a.jsonl", "{", r"a\.jsonl:1: not JSON"),
        ("a.jsonl", '{"question": "q", "choices": ["x", 3], "answer": 0}', "the answer's letter are wanted"),
        ("a.jsonl", '{"question": "q", "choices": ["x", "y"], "answer": 2}', "the answer is 'C', not one of A, B"),
        ("a.jsonl", '{"question": "q", "choices": ["x", "y"], "answer": -1}', "answer's letter are wanted"),
        ("a.jsonl", '{"question": "q", "choices": "xy", "answer": 0}', "choices are a list, not 'xy'"),
        ("a.zip", b"PK", "cannot be read as a zip file"),
        ("a.txt", "", r"questions come as \.zip, \.csv or \.jsonl"),
    ],
)
def test_refusals(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        read_subjects(tmp_path / name, shots=0, limit=None)


def test_a_zip_without_questions_and_impossible_numbers(tmp_path: Path) -> None:
    path = ceval_zip(tmp_path / "ceval.zip", dev_art=HEADER + "0,q,1,2,3,4,A\n")
    with pytest.raises(UserError, match="no csv or jsonl files in a folder val or test"):
        read_subjects(path, shots=0, limit=None)
    with pytest.raises(UserError, match="--limit 0"):
        read_subjects(path, shots=0, limit=0)
    with pytest.raises(UserError, match="--shots -1"):
        read_subjects(path, shots=-1, limit=None)
    with pytest.raises(UserError, match="cannot be read"):
        read_subjects(tmp_path / "none.csv", shots=0, limit=None)
