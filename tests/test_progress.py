"""Progress lines: what a log gets, and that a terminal gets a display that goes away."""

from __future__ import annotations

import io
import re
import sys

import pytest

from vamc_py import progress


class Terminal(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_stage_logs_its_start_and_its_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.stage("Tracing"):
        assert capsys.readouterr().err == "Tracing\n"
    written = capsys.readouterr()
    assert re.fullmatch(r"Tracing: done in \d+\.\d s\n", written.err)
    assert written.out == ""


def test_failing_stage_is_announced_and_passed_on(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="no such thing"), progress.stage("Tracing"):
        raise ValueError("no such thing")
    assert re.search(r"Tracing: stopped after \d+\.\d s\n$", capsys.readouterr().err)


def test_short_loop_leaves_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress.track([3, 1, 2], "Weights")) == [3, 1, 2]
    assert capsys.readouterr().err == ""


def test_long_loop_logs_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 2))  # two seconds pass between two looks
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    list(progress.track(range(7), "Weights"))
    assert capsys.readouterr().err.splitlines() == ["Weights: 3 of 7", "Weights: 6 of 7"]


def test_loop_of_unknown_length_logs_its_count(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LOG_INTERVAL", 0.0)
    list(progress.track(iter("ab"), "Files"))
    assert capsys.readouterr().err.splitlines() == ["Files: 1", "Files: 2"]


def test_terminal_shows_nested_tasks_and_keeps_the_summary(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress.stage("Weights [int8]"):
        assert list(progress.track(range(3), "Packing")) == [0, 1, 2]
    shown = terminal.getvalue()
    assert "Weights [int8]" in shown
    assert re.search(r"Weights \[int8\]: done in \d+\.\d s\n", shown)
    assert progress._display is None


def test_terminal_display_ends_when_a_loop_is_left_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    loop = progress.track(range(100), "Packing")
    assert next(loop) == 0
    loop.close()  # type: ignore[attr-defined]
    assert progress._display is None


def test_loop_of_few_long_items_logs_each_with_the_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0, 30, 60, 8000])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    list(progress.track("abc", "Layers", each=True))
    assert capsys.readouterr().err.splitlines() == [
        "Layers: 1 of 3, about 60 s left",
        "Layers: 2 of 3, about 30 s left",
        "Layers: 3 of 3",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (121, "2 min"), (3600, "60 min"), (7500, "2 h 5 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert progress._duration(seconds) == text
