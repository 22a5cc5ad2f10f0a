"""The signatures of two functions, compared: parameters, attributes, and how many results there are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

from tvm import relax, tirx

from vamc_py.inspect.bindings import View
from vamc_py.inspect.folding import Line
from vamc_py.inspect.layers import BEFORE, named_layer
from vamc_py.inspect.pairing import distinct
from vamc_py.inspect.report_model import LineKind

_NAME_ATTRIBUTE = "global_symbol"
_LONGEST_TYPE = 80  # characters
_Name = tuple[str, int]  # a name, and how often it stands before


def signature_lines(before: View, after: View, own: View) -> Iterator[Line]:
    """The lines of both signatures that differ; parameters have the place of their layer.

    A parameter is known by its name. One whose type changed is a removed and an added line, and so is one that stands
    elsewhere among those that stayed, with its position. ``own`` is the function before with the names that are shown
    for it; ``before`` may have the other's names for symbolic dimensions.
    """
    old, new, shown = (_parameters(view) for view in (before, after, own))
    unchanged = {name for name in old.keys() & new.keys() if old[name] == new[name]}
    moved = _moved([name for name in old if name in unchanged], [name for name in new if name in unchanged])
    for name in old:
        if name not in unchanged or name in moved:
            positions = [f", parameter {list(part).index(name)}" if name in moved else "" for part in (old, new)]
            yield _line("removed", name[0], _short(shown[name]) + positions[0])
            if name in new:
                yield _line("added", name[0], _short(new[name]) + positions[1])
    for name, kind in new.items():
        if name not in old:
            yield _line("added", name[0], _short(kind))
    yield from _property_lines(_properties(before), _properties(after))


def renamed_symbols(before: Any, after: Any) -> dict[str, str]:
    """Symbolic dimensions that have another name after, told by the parameters that have the same name in both.

    Empty when none has, or when the names after do not tell apart what the names before do.
    """
    dimensions = {str(var.name): _dimensions(var) for var in after.params}
    renamed: dict[str, str] = {}
    seen: set[str] = set()
    for var in before.params:
        old, new = _dimensions(var), dimensions.get(str(var.name), [])
        seen.update(str(a) for a in old if isinstance(a, tirx.Var))
        if len(old) == len(new):
            for a, b in zip(old, new, strict=True):
                if isinstance(a, tirx.Var) and isinstance(b, tirx.Var):
                    renamed.setdefault(str(a), str(b))
    every = {name: renamed.get(name, name) for name in seen}
    if len(set(every.values())) < len(every):
        return {}
    return {old: new for old, new in renamed.items() if old != new}


def _parameters(view: View) -> dict[_Name, str]:
    """The types of the parameters by name."""
    return dict(zip(distinct(name for name, _ in view.parameters), (kind for _, kind in view.parameters), strict=True))


def _dimensions(var: Any) -> list[Any]:
    shape = var.ty.shape if isinstance(var.ty, relax.TensorType) else None
    return list(shape.values) if isinstance(shape, relax.ShapeExpr) else []


def _moved(old: Sequence[_Name], new: Sequence[_Name]) -> set[_Name]:
    """The names outside of what stands in the same order in both."""
    if old == new:
        return set()
    blocks = SequenceMatcher(None, old, new, autojunk=False).get_matching_blocks()
    return set(old).difference(name for block in blocks for name in old[block.a : block.a + block.size])


def _short(kind: str) -> str:
    """The type, or the beginning of one that no line can hold: a tuple that the other function does not have."""
    return kind if len(kind) <= _LONGEST_TYPE else f"{kind[:_LONGEST_TYPE]}…"


def _line(kind: LineKind, name: str, text: str) -> Line:
    layer = named_layer(name)
    if layer is None:
        return Line(kind, f"{name}: {text}", BEFORE, (name, text))
    return Line(kind, f"{name}: {text}", layer, (re.sub(r"\d+", "N", name), text))


def _properties(view: View) -> dict[str, str]:
    """What a function has besides parameters and body."""
    function = view.function
    attributes = {str(key): value for key, value in (function.attrs or {}).items() if key != _NAME_ATTRIBUTE}
    properties = {f"attribute {key}": str(attributes[key]) for key in sorted(attributes)}
    result = function.ret_ty
    properties["results"] = f"a tuple of {len(result.fields)}" if isinstance(result, relax.TupleType) else "one"
    properties["purity"] = "pure" if function.is_pure else "impure"
    blocks = function.body.blocks if isinstance(function.body, relax.SeqExpr) else []
    kinds = {"dataflow" if isinstance(block, relax.DataflowBlock) else "plain" for block in blocks}
    if kinds:
        properties["blocks"] = " and ".join(sorted(kinds))
    if view.members:
        properties["tuples"] = ", ".join(view.members)
    return properties


def _property_lines(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[Line]:
    sides: tuple[tuple[LineKind, Mapping[str, str]], ...] = (("removed", old), ("added", new))
    for name in dict(old) | dict(new):
        for kind, properties in sides:
            if name in properties and old.get(name) != new.get(name):
                text = f"{name}: {properties[name]}"
                yield Line(kind, text, BEFORE, text)
