"""A picture of what the engines of a die do in one layer, by the device model's timing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vamc_py.runstream.program import ENGINES, Stage
from vamc_py.runstream.timing import Timeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# In the order of a layer; the first whose text a label has.
_PARTS = (
    ("q, k, v", "q_proj", "tab:blue"),
    ("attention", "attention", "tab:orange"),
    ("o", "o_proj", "tab:green"),
    ("gate, up", "gate_proj", "tab:red"),
    ("down", "down_proj", "tab:purple"),
)
_OTHER = "lightgrey"


def draw(stages: Sequence[tuple[Stage, Timeline]], layer: int, path: Path) -> None:
    """Writes a picture of layer `layer` on the first die, a row of engines for each stage."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    mpl.rcParams["svg.hashsalt"] = "vamc-py"  # the same bytes each time
    figure = Figure(figsize=(10, 2.6 * len(stages)), layout="constrained")
    for axes, (stage, timeline) in zip(figure.subplots(len(stages), squeeze=False)[:, 0], stages, strict=True):
        _stage(axes, stage, timeline, layer)
    handles = [Patch(color=color, label=name) for name, _, color in _PARTS]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _stage(axes: Axes, stage: Stage, timeline: Timeline, layer: int) -> None:
    program, die = timeline.programs[0], timeline.dies[0]
    inside = [n for n, command in enumerate(program.commands) if command.label.startswith(f"layers.{layer}.")]
    # Weights are loaded ahead, so the layer begins where its first product does.
    first = min(float(die.start[n]) for n in inside if program.commands[n].engine == "matrix")
    last = max(float(die.end[n]) for n in inside)
    bars: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for number, command in enumerate(program.commands):
        start, end = float(die.start[number]), float(die.end[number])
        if end > first and start < last:
            color = _color(command.label) if command.label.startswith(f"layers.{layer}.") else _OTHER
            bars.setdefault((command.engine, color), []).append(((start - first) * 1e3, (end - start) * 1e3))
    for (engine, color), spans in bars.items():
        row = len(ENGINES) - 1 - ENGINES.index(engine)
        axes.broken_barh(spans, (row - 0.4, 0.8), facecolors=color, rasterized=True)
    names: Any = list(reversed(ENGINES))
    axes.set_yticks(range(len(ENGINES)), names)
    axes.set_xlim(0, (last - first) * 1e3)
    ranks = f", die 1 of {program.ranks}" if program.ranks > 1 else ""
    axes.set_title(f"{stage} of {program.tokens}, context {program.context}{ranks}: layer {layer}", fontsize=9)
    axes.set_xlabel("ms, by the device model", fontsize=8)


def _color(label: str) -> str:
    return next((color for _, text, color in _PARTS if text in label), _OTHER)
