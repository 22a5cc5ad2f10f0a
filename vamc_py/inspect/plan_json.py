"""The parameter plan as JSON and back: each step by its class and its fields."""

from __future__ import annotations

import dataclasses
import importlib
import operator
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from vamc_py.errors import UserError
from vamc_py.pipeline.registry import load_pass_file
from vamc_py.weights.plan import ParameterPlan, Recipe, Rows, Step

_SCALARS = (str, int, float, bool, type(None))


def plan_to_json(plan: ParameterPlan, pass_files: Mapping[str, str] | None = None) -> Any:
    """``{parameter: {"sources": [...], "steps": [{"step": "module:Class", "fields": {...}}]}}``, in the plan's order.

    A recipe that chooses rows has ``"rows": [[start, stop, zeros], ...]``, too.

    ``pass_files`` maps the modules that are files of passes, and no module of a package, to ``my_pass.py:MyPass``: a
    step from there is written with ``"pass"``, so that reading it can load the file.
    UserError for a step that is no dataclass of plain values: nobody could read it back.
    """
    files = pass_files or {}
    return {
        name: {
            "sources": list(recipe.sources),
            **({} if recipe.rows is None else {"rows": [[one.start, one.stop, one.zeros] for one in recipe.rows]}),
            "steps": [_step_to_json(step, files) for step in recipe.steps],
        }
        for name, recipe in plan.recipes.items()
    }


def plan_from_json(data: Any) -> ParameterPlan:
    """The plan, equal to the one that was written. UserError for other JSON and for steps that are not installed."""
    try:
        recipes = {
            str(name): Recipe(
                tuple(entry["sources"]),
                tuple(_step_from_json(step) for step in entry["steps"]),
                tuple(Rows(*(int(number) for number in one)) for one in entry["rows"]) if "rows" in entry else None,
            )
            for name, entry in data.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"this is no parameter plan as vamc-py writes it ({error})") from error
    return ParameterPlan(recipes)


def _step_to_json(step: Step, files: Mapping[str, str]) -> dict[str, Any]:
    kind = type(step)
    if not dataclasses.is_dataclass(step) or "<locals>" in kind.__qualname__:
        raise UserError(f"{_unwritable(kind)} is no dataclass of a module; {_MAKE_PLAIN}")
    fields = {field.name: getattr(step, field.name) for field in dataclasses.fields(step) if field.init}
    for name, value in fields.items():
        if not _is_plain(value):
            raise UserError(f"{_unwritable(kind)} has {name} = {value!r}; {_MAKE_PLAIN}")
    file = files.get(kind.__module__)
    if file is not None:
        return {"step": kind.__qualname__, "pass": file, "fields": fields}
    return {"step": f"{kind.__module__}:{kind.__qualname__}", "fields": fields}


_MAKE_PLAIN = (
    "make it a frozen dataclass at the top of its module, its fields text, numbers or tuples of them, so that the IR "
    "can be kept with it"
)


def _unwritable(kind: type) -> str:
    return f"the step {kind.__module__}:{kind.__qualname__} of the parameter plan"


def _is_plain(value: Any) -> bool:
    return isinstance(value, _SCALARS) or (isinstance(value, tuple) and all(_is_plain(part) for part in value))


def _step_from_json(data: dict[str, Any]) -> Step:
    kind = _step_class(data["step"], data.get("pass"))
    step: Step = kind(**{name: _as_tuples(value) for name, value in data["fields"].items()})
    return step


def _step_class(reference: str, file: str | None) -> Any:
    """The class, which must be one of steps: a plan from elsewhere shall not call whatever it likes."""
    module, _, name = reference.rpartition(":")
    try:
        kind = operator.attrgetter(name)(importlib.import_module(module) if file is None else _pass_file(file))
    except (ImportError, AttributeError, ValueError):
        where = "install the package that brought its pass" if file is None else f"it was in the file of {file}"
        raise UserError(f"the parameter plan has the step {reference}, which is not here; {where}") from None
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind) and callable(getattr(kind, "apply", None))):
        raise UserError(f"the parameter plan names {reference} as a step, which it is not")
    return kind


def _pass_file(reference: str) -> ModuleType:
    """The module of a pass's file: the one that is loaded already, whose classes are those of the running passes."""
    path = Path(reference.rpartition(":")[0]).resolve()
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and Path(file) == path:
            return module
    return sys.modules[load_pass_file(reference).kind.__module__]


def _as_tuples(value: Any) -> Any:
    """JSON knows lists only; the fields of frozen dataclasses hold tuples."""
    return tuple(_as_tuples(part) for part in value) if isinstance(value, list) else value
