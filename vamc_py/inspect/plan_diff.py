"""What changed in the recipes by which parameters are made."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

from vamc_py.inspect.folding import Line, hunks
from vamc_py.inspect.layers import BEFORE, named_layer
from vamc_py.inspect.report_model import FunctionChange, LineKind
from vamc_py.weights.plan import ParameterPlan, Recipe, Rows


def diff_plans(before: ParameterPlan, after: ParameterPlan) -> FunctionChange | None:
    """The recipes that changed, that are gone and that are new, as a change of "parameter plan"; None for none."""
    lines: list[Line] = []
    for name in [*before, *(name for name in after if name not in before.recipes)]:
        old, new = before.recipes.get(name), after.recipes.get(name)
        if old != new:
            lines += [] if old is None else [_line("removed", name, old)]
            lines += [] if new is None else [_line("added", name, new)]
    return FunctionChange(name="parameter plan", status="changed", hunks=hunks(lines, "recipes")) if lines else None


def recipe_text(recipe: Recipe) -> str:
    """``gate_proj.weight above up_proj.weight, rows 0:8 above 16:24, Cast(float32), QuantizeRows(values)``: sources,
    chosen rows, if it chooses, then steps."""
    rows = [] if recipe.rows is None else [f"rows {' above '.join(map(_rows_text, recipe.rows))}"]
    return ", ".join([" above ".join(recipe.sources), *rows, *(_step_text(step) for step in recipe.steps)])


def _rows_text(rows: Rows) -> str:
    chosen = [] if rows.start == rows.stop and rows.zeros else [f"{rows.start}:{rows.stop}"]
    return " above ".join([*chosen, *([f"{rows.zeros} of zeros"] if rows.zeros else [])])


def _step_text(step: Any) -> str:
    shown = [str(getattr(step, f.name)) for f in fields(step) if getattr(step, f.name) != f.default]
    return f"{type(step).__name__}({', '.join(shown)})"


def _line(kind: LineKind, name: str, recipe: Recipe) -> Line:
    text = f"{name}: {recipe_text(recipe)}"
    layer = named_layer(name)
    if layer is None:
        return Line(kind, text, BEFORE, text)
    return Line(kind, text, layer, re.sub(rf"(?<![\w]){layer}(?![\w])", "N", text))
