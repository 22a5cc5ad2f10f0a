"""The plots of docs/performance.md: tokens a second against the context, and the roofline.

Lines and letters are of middle brightness on no background: they can be read on a white page and on a black one.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.figures import Figures
from benchmarks.tables import is_ours

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK = "#7a828c"  # contrast of 4 to white and of 4.8 to GitHub's dark page
_COLOURS = ("#2f7ff0", "#0f9d8a", "#8b5cf6", "#e0662b", "#c2962a", "#a08a5c", "#d1477a")
_MARKS = ("o", "s", "D", "^", "v", "<", ">")
_SETTINGS: dict[Any, Any] = {
    "font.family": "sans-serif",
    "svg.fonttype": "none",  # letters stay letters: smaller, and they can be searched
    "svg.hashsalt": "vamc-py",  # the same figures give the same bytes
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def context(figures: Figures, path: Path) -> None:
    """Tokens/s of one sequence against the tokens in its cache; writes nothing where fewer than two were measured."""
    cases = [case for case in figures.cases() if case.measure == "decode" and case.batch == 1]
    if len(cases) < 2:
        return
    axes = _axes("tokens in the cache", "tokens/s, one sequence")
    for number, engine in enumerate(figures.engines()):
        points = [(case.size, rate) for case in cases if (rate := figures.rate(engine, case)) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), label=_title(figures, engine), **_style(number, engine))
    limits = [(case.size, statistics.median(found.values())) for case in cases if (found := figures.limit_rates(case))]
    if limits:
        axes.plot(*zip(*limits, strict=True), color=_INK, linestyle="--", label="limit: read bandwidth")
    axes.set_ylim(bottom=0)
    axes.set_xticks([case.size for case in cases])
    _save(axes, path)


def roofline(figures: Figures, path: Path) -> None:
    """Operations/s against operations for each byte read, under the ceilings of this machine."""
    limits = _limits(figures)
    cases = [case for case in figures.cases() if figures.engines()]
    if not limits or not cases:
        return
    axes = _axes("operations for each byte that has to be read", "Gop/s")
    axes.set_xscale("log")
    axes.set_yscale("log")
    works = {case: case.work(figures.shape, case.size if case.measure == "prefill" else case.batch) for case in cases}
    intensities = [work.operations / work.read for work in works.values()]
    edges = (min(intensities) / 2, max(intensities) * 2)
    for kind in sorted(limits.keys() - {"read"}):
        knee = limits[kind] / limits["read"]
        xs = [edges[0], min(max(knee, edges[0]), edges[1]), edges[1]]
        ys = [min(x * limits["read"], limits[kind]) / 1e9 for x in xs]
        axes.plot(xs, ys, color=_INK, linestyle="--", linewidth=1)
        axes.annotate(kind, (edges[1], ys[-1]), color=_INK, ha="right", va="bottom")
    for number, engine in enumerate(figures.engines()):
        points = []
        for case, intensity in zip(cases, intensities, strict=True):
            rate = figures.rate(engine, case)
            if rate is not None:
                tokens = case.size if case.measure == "prefill" else case.batch
                points.append((intensity, works[case].operations / tokens * rate / 1e9))
        if points:
            style = {**_style(number, engine), "linestyle": "none"}
            axes.plot(*zip(*points, strict=True), label=_title(figures, engine), **style)
    _save(axes, path)


def _limits(figures: Figures) -> dict[str, float]:
    """The machine's limits as medians over all rounds and measures of this model."""
    found: dict[str, list[float]] = {}
    for record in figures.results.limits:
        if record.model == figures.model:
            for name, passes in record.passes.items():
                found.setdefault(name, []).append(statistics.median(passes))
    return {name: statistics.median(values) for name, values in found.items()}


def _axes(across: str, up: str) -> Axes:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams.update(_SETTINGS)
    axes: Axes = Figure(figsize=(7.2, 4.2), layout="constrained").subplots()
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(color=_INK, alpha=0.25, linewidth=0.6)
    return axes


def _style(number: int, engine: str) -> dict[str, Any]:
    width = 2.2 if is_ours(engine) else 1.4
    return {"color": _COLOURS[number % 7], "marker": _MARKS[number % 7], "linewidth": width, "markersize": 5}


def _title(figures: Figures, engine: str) -> str:
    return figures.results.engines[engine].title


def _save(axes: Axes, path: Path) -> None:
    axes.legend(frameon=False, fontsize="small")
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.savefig(path, transparent=True, metadata={"Date": None, "Creator": None})
