"""The last stage: tables as text, plots as files, and both into the documents."""

from __future__ import annotations

from pathlib import Path

from benchmarks import plots, tables
from benchmarks.figures import Figures
from benchmarks.results import Results

_DOCUMENT = Path("docs/performance.md")
_IMAGES = Path("docs/images")


def report(results: Results, folder: Path, repository: Path | None) -> str:
    """Write tables.md and the plots of each model into ``folder``, and with a ``repository`` into its documents.

    Returns the tables.
    """
    text = tables.document(results)
    (folder / "tables.md").write_text(text + "\n", encoding="utf-8")
    write_plots(results, folder)
    if repository is not None:
        document = repository / _DOCUMENT
        shown = tables.put_between_marks(document.read_text(encoding="utf-8"), text, str(_DOCUMENT))
        document.write_text(shown, encoding="utf-8")
        write_plots(results, repository / _IMAGES)
    return text


def write_plots(results: Results, folder: Path) -> None:
    """performance_MODEL_context.svg and performance_MODEL_roofline.svg for each model that has the figures."""
    for name in results.models:
        figures = Figures(results, name)
        for kind, draw in (("context", plots.context), ("roofline", plots.roofline)):
            draw(figures, folder / f"performance_{name}_{kind}.svg")
