"""A real browser without a window, for tests of the HTML report."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# The pages are ours: no sandbox, which a container's root may not have. The other two are what small containers lack.
ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
LAPTOP = {"width": 1440, "height": 900}
PHONE = {"width": 390, "height": 844}


@dataclass
class Tab:
    """A page of the browser, everything that went wrong in it, and every address that it asked for."""

    page: Any
    faults: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


class Tabs:
    """Tabs of one browser, one for each kind of screen, used again and again: a new one takes longer than a page."""

    def __init__(self, browser: Any) -> None:
        self._browser = browser
        self._tabs: dict[str, Tab] = {}

    def open(self, file: Path, viewport: dict[str, int] = LAPTOP, place: str = "", **options: Any) -> Tab:
        """The file opened from disk, at ``place`` ("#graph") if given. Animations are off."""
        tab = self._tab(viewport, options)
        tab.page.goto("about:blank")
        tab.page.mouse.move(0, 0)
        tab.faults.clear()
        tab.requests.clear()
        tab.page.goto(file.as_uri() + place)
        return tab

    def _tab(self, viewport: dict[str, int], options: dict[str, Any]) -> Tab:
        kind = repr((viewport, options))
        if kind not in self._tabs:
            context = self._browser.new_context(viewport=viewport, reduced_motion="reduce", **options)
            context.set_default_timeout(5000)
            tab = Tab(context.new_page())
            tab.page.on("console", lambda message: tab.faults.append(f"console {message.type}: {message.text}"))
            tab.page.on("pageerror", lambda error: tab.faults.append(f"page: {error}"))
            tab.page.on("request", lambda request: tab.requests.append(request.url))
            self._tabs[kind] = tab
        return self._tabs[kind]


def find_browser() -> str | None:
    """$VAMC_PY_BROWSER, or the first Chromium or Chrome on the path."""
    return os.environ.get("VAMC_PY_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)


@contextmanager
def running_browser() -> Iterator[Any]:
    """Playwright's browser; skips the test where there is none, but in CI (CI=true) that is a failure."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _missing("Playwright for Python is not installed")
    executable = find_browser()
    if executable is None:
        _missing(f"no browser: none of {', '.join(BROWSERS)} is on the path, and $VAMC_PY_BROWSER names none")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


def _missing(reason: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason}; CI must run these tests")
    pytest.skip(reason)
