"""``vamc-py eval`` from the command line to its table: a tiny model, compiled, beside its float self."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.artifacts import write_artifact, write_manifest
from support.checkpoints import write_checkpoint
from support.end_to_end import configuration

from vamc_py.artifact.verify import read_manifest
from vamc_py.cli import main
from vamc_py.evaluation.sizes import bits_per_weight, matrix_weights, parameter_bytes

QUESTIONS = "is this a question,yes,no,a,the,A\nthe other?,in,on,an,er,D\nand,1,2,3,4,C\n"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int | str | None, str, str]:
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return left.value.code, captured.out, captured.err


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.yaml, text and questions.csv; compiled models are kept in it, too."""
    folder = tmp_path_factory.mktemp("eval")
    write_checkpoint(folder / "model", architecture="qwen3", scale=0.3, tied=False, vocab=320, dtype="bfloat16")
    overrides = ["backend.dtype=int8", "frontend.quantize.activation=int16"]
    loaded = configuration(folder / "model", folder / "out", overrides=overrides)
    (folder / "model.yaml").write_text(loaded.text)
    words = np.random.default_rng(3).choice(["the ", "and ", "in", "other ", "question "], 400)
    (folder / "text").write_text("".join(words))
    (folder / "questions.csv").write_text(QUESTIONS)
    return folder


def arguments(place: Path) -> list[object]:
    return ["--text", place / "text", "--context", 32, "--chunks", 3, "--choices", place / "questions.csv"]


@pytest.fixture(scope="module")
def record(place: Path) -> dict[str, Any]:
    """The figures of the configuration as it is; compiles it and the float model."""
    path = place / "figures.json"
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in ["eval", place / "model.yaml", *arguments(place), "--json", path]])
    assert left.value.code == 0
    return json.loads(path.read_text())  # type: ignore[no-any-return]


def kept(place: Path) -> list[Path]:
    return sorted((place / "out" / ".eval").iterdir())


def test_a_configuration_beside_its_float_model(place: Path, record: dict[str, Any]) -> None:
    reference, model = record["models"]
    assert (record["reference"], reference["scheme"], model["scheme"]) == ("float (bf16)", "float (bf16)", "w8a16")
    assert reference["divergence"] is None
    assert 0 < model["divergence"]["kl_mean"] < model["divergence"]["kl_p99"] < 0.1
    assert 0.5 < model["divergence"]["agreement"] <= 1
    assert model["ppl_increase"] == pytest.approx(model["ppl"] / reference["ppl"] - 1)
    assert model["ppl"] != reference["ppl"]
    assert model["tokens"] == 3 * 15
    choices = model["choices"]["questions"]
    assert choices["score"]["asked"] == 3
    assert choices["accuracy"] == choices["score"]["right"] / 3
    assert [path.name.rsplit("-", 1)[0] for path in kept(place)] == ["model-float-bf16", "model-w8a16"]


def test_bits_per_weight(place: Path, record: dict[str, Any]) -> None:
    """bf16: 16 bits, all sizes being whole panels; int8: a scale of 32 bits for each row beside 8 bits a weight."""
    folders = {path.name.split("-")[1]: path for path in kept(place)}
    assert record["models"][0]["bits_per_weight"] == 16
    weights = 2 * 320 * 64 + 2 * ((64 + 2 * 32) * 64 + 64 * 64 + 3 * 64 * 96)
    scales = 2 * 320 + 2 * (128 + 64 + 192 + 64)
    manifest = read_manifest(folders["w8a16"])
    assert matrix_weights(manifest.model) == weights
    assert bits_per_weight(manifest) == pytest.approx(8 + 32 * scales / weights)
    assert record["models"][1]["parameter_bytes"] == parameter_bytes(manifest)


def test_an_artifact_finds_its_float_model(
    place: Path, record: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = kept(place)
    artifact = next(path for path in before if "w8a16" in path.name)
    code, out, _ = run(capsys, "eval", artifact, *arguments(place), "--cache", before[0].parent, "--json", "-")
    assert code == 0
    assert kept(place) == before  # what an artifact is called says nothing of its float model: it is used again
    for one, other in zip(json.loads(out)["models"], record["models"], strict=True):
        assert one | {"scheme": ""} == other | {"scheme": ""}
    copy = tmp_path / "copy"
    shutil.copytree(artifact, copy)
    manifest = read_manifest(copy)
    write_manifest(copy, manifest.model_copy(update={"source": {"checkpoint": "another"}}))
    code, out, err = run(capsys, "eval", copy, *arguments(place))
    assert (code, out) == (2, "")
    assert "is not the one that it was compiled from; say --against ARTIFACT or none" in err


def test_the_table_and_what_is_kept(place: Path, record: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["eval", place / "model.yaml", *arguments(place), "--scheme", "w8a16", "--against", "none"]
    code, first, err = run(capsys, *words)
    assert code == 0
    assert "compile w8a16: done" in err  # to write the type out is another configuration
    code, out, err = run(capsys, *words)
    assert (code, out) == (0, first)
    assert "compile" not in err
    heading, row, *notes = out.splitlines()
    assert heading.split() == ["scheme", "bits/weight", "MB", "ppl", "questions"]
    assert row.split()[0] == "w8a16"
    assert float(row.split()[3]) == pytest.approx(record["models"][1]["ppl"], abs=1e-3)
    assert notes == ["text: 45 tokens scored", "questions: 3 questions of 1 subjects"]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy") / "toy"
    write_artifact(folder)
    (folder.parent / "text").write_text("w1 w0 w0 w0 w0 " * 20)
    return folder


def test_an_artifact_against_itself(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = ["--text", toy.parent / "text", "--context", 20]
    code, out, _ = run(capsys, "eval", toy, *text, "--against", toy)
    assert code == 0
    heading, first, second, _ = out.splitlines()
    assert heading.split()[3:] == ["ppl", "change", "agreement", "KL", "mean", "KL", "p99"]
    assert second.split()[-4:] == ["+0.00%", "100.00%", "0.00000", "0.00000"]
    assert len(first.split()) == 4


def test_a_terminal_gets_a_table(
    toy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    code, out, _ = run(capsys, "eval", toy, "--text", toy.parent / "text", "--context", 20, "--against", toy)
    assert code == 0
    assert "100.00%" in out
    assert "┃" in out or "|" in out


def test_questions_that_are_too_long_have_no_accuracy(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "long.csv").write_text(f"{'w1 ' * 80},w1,w2,w3,w4,A\n")
    words = ["eval", toy, "--choices", tmp_path / "long.csv", "--against", "none"]
    code, out, _ = run(capsys, *words)
    assert code == 0
    assert out.splitlines()[1].split()[-1] == "-"
    assert "long: 1 questions left out, as they are longer than the context" in out
    code, out, _ = run(capsys, *words, "--json", "-")
    assert json.loads(out)["models"][0]["choices"]["long"]["accuracy"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["TOY"], "nothing to measure: give --text, --choices or both"),
        (["TOY", "--text", "TEXT", "--scheme", "w8a16"], "an artifact is compiled already"),
        (["TOY", "--text", "TEXT", "--set", "a=b"], "an artifact is compiled already"),
        (["TOY", "--text", "NONE", "--against", "none"], "cannot be read as UTF-8 text"),
        (["TOY", "--text", "TEXT", "--against", "none"], "the text has 100 tokens, too few for one window of 512"),
        (["TOY", "--text", "TEXT", "--against", "NONE"], "no manifest.json here"),
        (["TOY", "--text", "TEXT", "--context", "80", "--against", "none"], "compiled for 1 to 70"),
        (["TOY", "--text", "TEXT"], "frontend: missing"),  # the toy's configuration is none
        (["NONE", "--text", "TEXT"], "no such file"),
        (["PARENT", "--text", "TEXT"], "no manifest.json here"),
        (["TOY", "--choices", "TEXT", "--against", "none"], "questions come as"),
        (["CONFIG", "--text", "TEXT", "--scheme", "w3a5"], "w3a5"),
        (["CONFIG", "--text", "TEXT", "--scheme", "group=3"], "not of the form TYPE or TYPE,key=value"),
        (["CONFIG", "--text", "TEXT", "--scheme", "w8a16,group"], "not of the form TYPE or TYPE,key=value"),
    ],
)
def test_refusals(place: Path, toy: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    named = {"TOY": toy, "PARENT": toy.parent, "TEXT": toy.parent / "text", "NONE": toy.parent / "none"}
    code, out, err = run(capsys, "eval", *(named.get(w, place / "model.yaml" if w == "CONFIG" else w) for w in words))
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "eval", "--help")
    assert code == 0
    assert "Example: vamc-py eval my_model.yaml" in out
