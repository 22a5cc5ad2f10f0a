"""The benchmark's command line and its report."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from support.benchmark_results import MODEL, sample_results
from support.project_tree import ROOT

from benchmarks import plots, report, tables
from benchmarks.cli import STAGES, choices, numbers
from benchmarks.figures import Figures
from vamc_py.errors import UserError


def call(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The command as a user calls it, from elsewhere."""
    command = [sys.executable, str(ROOT / "benchmarks" / "run.py"), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_help_has_an_example(tmp_path: Path) -> None:
    done = call("--help", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Example: python benchmarks/run.py --model" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rounds", "0"), "--rounds 0: at least 1 is wanted"),
        (("--repeats", "0"), "--repeats 0: at least 1 is wanted"),
        (("--prefill", "12,x"), "--prefill 12,x: write numbers"),
        (("--engine", "vllm", "--only", "set-up"), "--engine vllm: there is vamc-py:int16"),
        (("--model", "qwen9"), "--model qwen9: without a path"),
        (("--threads", "0"), "0 threads"),
        (("--only", "report"), "the results are empty; measure something first"),
    ],
)
def test_faults_are_sentences(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(
        '{"num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4,'
        ' "num_key_value_heads": 2, "vocab_size": 288}'
    )
    model = () if "--model" in arguments else ("--model", "tiny=model")
    done = call(*arguments, *model, "--folder", "work", folder=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_numbers() -> None:
    assert numbers("--batch", "4,16,4") == (4, 16)
    for text in ("", "0", "4,", "4;5", "-1"):
        with pytest.raises(UserError, match="--batch"):
            numbers("--batch", text)


def test_choices_keep_their_order() -> None:
    assert choices("--only", None, STAGES) == STAGES
    assert choices("--only", ["report", "measure"], STAGES) == ("measure", "report")
    with pytest.raises(UserError, match="--only all: there is set-up, "):
        choices("--only", ["all"], STAGES)


def colours_of(path: Path) -> set[str]:
    return {word for word in path.read_text().replace(";", " ").split() if word.startswith("#")}


def test_plots_are_drawn_and_stay_the_same(tmp_path: Path) -> None:
    figures = Figures(sample_results(), MODEL)
    for draw in (plots.context, plots.roofline):
        path, again = tmp_path / f"{draw.__name__}.svg", tmp_path / "again.svg"
        draw(figures, path)
        draw(figures, again)
        assert path.read_bytes() == again.read_bytes()
        text = " ".join(ElementTree.parse(path).getroot().itertext())
        assert "vamc-py, bf16" in text
        assert "OpenVINO GenAI" in text


def test_plots_are_black_and_white_nowhere(tmp_path: Path) -> None:
    """Pure black or white would vanish on one of the two pages."""
    plots.roofline(Figures(sample_results(), MODEL), tmp_path / "plot.svg")
    assert colours_of(tmp_path / "plot.svg") & {"#000000", "#ffffff"} == set()


def test_a_plot_needs_two_contexts(tmp_path: Path) -> None:
    results = sample_results()
    for process in results.processes:
        process.samples[:] = [sample for sample in process.samples if sample.size != 32]
    plots.context(Figures(results, MODEL), tmp_path / "plot.svg")
    assert list(tmp_path.iterdir()) == []


def test_the_report_writes_tables_plots_and_documents(tmp_path: Path) -> None:
    repository, folder = tmp_path / "repository", tmp_path / "work"
    for path in (repository / "docs" / "images", folder):
        path.mkdir(parents=True)
    document = repository / "docs" / "performance.md"
    document.write_text(f"# Speed\n\n{tables.BEGIN}\n{tables.END}\n\nend\n")
    text = report.report(sample_results(), folder, repository)
    assert (folder / "tables.md").read_text() == f"{text}\n"
    assert text in document.read_text()
    assert document.read_text().endswith(f"{tables.END}\n\nend\n")
    plots_of = {f"performance_{MODEL}_{kind}.svg" for kind in ("context", "roofline")}
    assert {path.name for path in (repository / "docs" / "images").iterdir()} == plots_of
    assert {path.name for path in folder.iterdir()} == {*plots_of, "tables.md"}


def test_the_document_has_its_marks() -> None:
    tables.put_between_marks((ROOT / "docs" / "performance.md").read_text(), "", "docs/performance.md")
