"""The report as one HTML document that opens from disk and asks the network for nothing."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from importlib.resources import files

from vamc_py.inspect.report_model import Report

STYLES = ("style.css", "facts.css", "timeline.css", "graph.css", "charts.css")
SCRIPTS = (
    "dom.js",
    "units.js",
    "overview.js",
    "timeline.js",
    "graph_layout.js",
    "graph.js",
    "graph_details.js",
    "memory.js",
    "roofline.js",
    "config.js",
    "app.js",
)
_PLACE = re.compile(r"\{\{(\w+)\}\}")


def render_page(report: Report) -> str:
    """An HTML document with the style, the scripts and the data of ``report`` inside.

    Names in a report come from checkpoints and YAML files, so they are never markup here: the data lies in the page as
    JSON without any ``<``, the scripts put it into text nodes, and the page's own policy forbids every script but these
    (by their hashes) and every request.
    """
    styles = [_part(name) for name in STYLES]
    scripts = [_part(name) for name in SCRIPTS]
    parts = {
        "policy": _policy(styles, scripts),
        "title": html.escape(f"{report.title}: vamc-py report"),
        "styles": "\n".join(f"<style>{text}</style>" for text in styles),
        "report": report.model_dump_json().replace("<", "\\u003c"),
        "scripts": "\n".join(f"<script>{text}</script>" for text in scripts),
    }
    return _PLACE.sub(lambda place: parts[place[1]], _part("page.html"))


def _part(name: str) -> str:
    return (files("vamc_py.inspect") / "report_page" / name).read_text(encoding="utf-8")


def _policy(styles: list[str], scripts: list[str]) -> str:
    """The Content-Security-Policy: nothing from anywhere, and of what the page holds only these texts."""
    allowed_styles = " ".join(map(_hash, styles))
    allowed_scripts = " ".join(map(_hash, scripts))
    nothing = "default-src 'none'; base-uri 'none'; form-action 'none'"
    return f"{nothing}; style-src {allowed_styles}; script-src {allowed_scripts}"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
