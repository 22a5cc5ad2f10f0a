"""Progress on stderr: live bars on a terminal, a few plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeVar

from vamc_py.log import LOGGER

if TYPE_CHECKING:
    from rich.progress import Progress

LOG_INTERVAL = 5.0  # seconds between two lines of one loop in a log

Item = TypeVar("Item")

_times: ContextVar[dict[str, float] | None] = ContextVar("_times", default=None)


@contextmanager
def stage_times() -> Iterator[dict[str, float]]:
    """Collects the seconds of each stage that ends inside, by its name."""
    times: dict[str, float] = {}
    token = _times.set(times)
    try:
        yield times
    finally:
        _times.reset(token)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Announce a part of the work, and say how many seconds it took; a failure is announced and passed on."""
    started = time.monotonic()
    LOGGER.info(name)
    if not sys.stderr.isatty():
        say(name)
    try:
        with _shown(name, total=None):
            yield
    except BaseException:
        say(stopped := f"{name}: stopped after {time.monotonic() - started:.1f} s")
        LOGGER.info(stopped)
        raise
    seconds = time.monotonic() - started
    say(done := f"{name}: done in {seconds:.1f} s")
    LOGGER.info(done)
    if (times := _times.get()) is not None:
        times[name] = seconds


def track(items: Iterable[Item], description: str, total: int | None = None, *, each: bool = False) -> Iterator[Item]:
    """Yield ``items`` while showing how many are done, of ``total`` (default: their length where they have one).

    A log gets a line only for a loop that lasts longer than LOG_INTERVAL; with ``each``, for a few items that may take
    minutes, it gets one for every item, with the time left.
    """
    if total is None and isinstance(items, Collection):
        total = len(items)
    with _shown(description, total, each=each) as advance:
        for item in items:
            yield item
            advance()


@contextmanager
def _shown(name: str, total: int | None, *, each: bool = False) -> Iterator[Callable[[], None]]:
    """Show one task, nested in those that are already shown; the value counts one item as done."""
    if not sys.stderr.isatty():
        yield _log_counter(name, total, 0.0 if each else LOG_INTERVAL, time_left=each)
        return
    with _live_display() as display:
        task = display.add_task(name, total=total)
        try:
            yield lambda: display.advance(task)
        finally:
            display.remove_task(task)


def _log_counter(name: str, total: int | None, interval: float, *, time_left: bool) -> Callable[[], None]:
    done = 0
    started = last_line = time.monotonic()

    def advance() -> None:
        nonlocal done, last_line
        done += 1
        now = time.monotonic()
        if now - last_line >= interval:
            last_line = now
            line = f"{name}: {done}" if total is None else f"{name}: {done} of {total}"
            if time_left and total is not None and done < total:
                line += f", about {_duration((now - started) / done * (total - done))} left"
            say(line)

    return advance


def _duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3 h 5 min``."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


_display: Progress | None = None  # the one live display of the process, while any task is shown


@contextmanager
def _live_display() -> Iterator[Progress]:
    global _display
    if _display is not None:
        yield _display
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    text = TextColumn("{task.description}", markup=False)
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    columns = (SpinnerColumn(), text, BarColumn(), MofNCompleteColumn(), *times)
    with Progress(*columns, console=Console(stderr=True), transient=True) as _display:
        try:
            yield _display
        finally:
            _display = None


def say(line: str) -> None:
    """A line on stderr, above the live bars where there are some."""
    if _display is not None:
        _display.console.print(line, markup=False, highlight=False)
    else:
        print(line, file=sys.stderr, flush=True)
