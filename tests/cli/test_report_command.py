"""``vamc-py report``: what it writes and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from support.dumps import make_dump
from typer.testing import CliRunner

from vamc_py.cli import report
from vamc_py.errors import UserError
from vamc_py.inspect import report_file


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dump(tmp_path_factory.mktemp("report") / "dump", text=False, layers=1).folder


def run(*arguments: object) -> str:
    """What the command prints; its errors are raised."""
    app = typer.Typer()
    report.register(app)
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False).stdout


def test_a_page_is_written(dump: Path, tmp_path: Path) -> None:
    output = tmp_path / "page.html"
    output.write_text("an older one")
    assert run(dump, "-o", output, "--no-measure").splitlines()[-1] == str(output)
    page = output.read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "qkv_attention" in page
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(
        report_file, "write_report", lambda path, output, measure: asked.append((path, output, measure))
    )
    assert run("build/model") == "report.html\n"
    assert asked == [(Path("build/model"), Path("report.html"), True)]


def test_a_folder_that_is_no_dump(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a dump nor an artifact"):
        run(tmp_path, "-o", tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_places_that_take_no_file(dump: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{tmp_path}: a folder; name a file for the report, such as"):
        run(dump, "-o", tmp_path)
    with pytest.raises(UserError, match="there is no folder"):
        run(dump, "-o", tmp_path / "missing" / "page.html")


def test_what_fails_leaves_the_older_report(dump: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "page.html"
    output.write_text("an older one")

    def full(_self: Path, _target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UserError, match="cannot be written \\(No space left on device\\); name another file"):
        report_file.write_beside(output, "a new one")
    assert output.read_text() == "an older one"
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
