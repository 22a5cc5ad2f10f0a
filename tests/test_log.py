"""The log of a compile: vamc's form, what each verbosity holds, and how a compile's end is told."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from vamc_py import progress
from vamc_py.errors import ConfigError, UserError
from vamc_py.log import LOGGER, logged_to

LINE = re.compile(r"\d\d/\d\d/\d{4} \d\d:\d\d:\d\d - vamc - (DEBUG|INFO|ERROR) - (.*)")


def lines(path: Path) -> list[tuple[str, str]]:
    """(level, message) of each line; every line has vamc's form."""
    found = [LINE.fullmatch(line) for line in path.read_text().splitlines()]
    return [(match[1], match[2]) for match in found if match or pytest.fail(path.read_text())]


@pytest.mark.parametrize(("verbosity", "levels"), [(1, ["INFO"]), (2, ["INFO", "DEBUG"])])
def test_form_and_verbosity(tmp_path: Path, verbosity: int, levels: list[str]) -> None:
    with logged_to(tmp_path / "new" / "model.log", verbosity):
        LOGGER.info("a pass")
        LOGGER.debug("what it did")
    messages = {"INFO": "a pass", "DEBUG": "what it did"}
    assert lines(tmp_path / "new" / "model.log") == [(level, messages[level]) for level in levels]
    assert LOGGER.level == logging.WARNING


def test_stages_are_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with logged_to(tmp_path / "model.log", 1), progress.stage_times() as times, progress.stage("trace"):
        pass
    assert [re.sub(r"\d\.\d", "N", message) for _, message in lines(tmp_path / "model.log")] == [
        "trace",
        "trace: done in N s",
    ]
    assert list(times) == ["trace"]
    assert 0 <= times["trace"] < 5
    capsys.readouterr()


def test_faults_of_the_input_are_sentences(tmp_path: Path) -> None:
    fault = ConfigError(["a.yaml:1:1: name: missing", "a.yaml:2:1: backend: missing"])
    with pytest.raises(ConfigError), logged_to(tmp_path / "model.log", 1):
        raise fault
    assert lines(tmp_path / "model.log") == [("ERROR", fault.faults[0]), ("ERROR", fault.faults[1])]


def test_faults_of_ours_have_their_traceback(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), logged_to(tmp_path / "model.log", 1):
        _ = 1 / 0
    text = (tmp_path / "model.log").read_text()
    assert "ERROR - a fault of vamc-py\nTraceback" in text
    assert text.endswith("ZeroDivisionError: division by zero\n")


def test_a_log_starts_anew_and_needs_a_folder(tmp_path: Path) -> None:
    for word in ("first", "second"):
        with logged_to(tmp_path / "model.log", 1):
            LOGGER.info(word)
    assert lines(tmp_path / "model.log") == [("INFO", "second")]
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match=r"file/model\.log: the log cannot be written"),
        logged_to(tmp_path / "file" / "model.log", 1),
    ):
        pass


def test_nothing_is_logged_without_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    LOGGER.error("nobody asked")
    assert capsys.readouterr().err == ""
