"""What changed between two modules: by function and by binding, whatever the variables are called.

A binding is unchanged when it does the same to the same values. Renamed variables, bindings in another order and names
that were made unique anew are no change; parameters are known by their names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from tvm import relax

from vamc_py.inspect.bindings import Members, View
from vamc_py.inspect.body_lines import body_lines
from vamc_py.inspect.folding import hunks
from vamc_py.inspect.kernel_diff import KernelDiff
from vamc_py.inspect.layers import layer_of_bindings, member_names, places_of, tuple_fields
from vamc_py.inspect.pairing import Pairing
from vamc_py.inspect.report_model import FunctionChange
from vamc_py.inspect.signature_lines import renamed_symbols, signature_lines

__all__ = ["diff_modules", "layer_of_bindings", "render"]


def diff_modules(before: Any, after: Any, members: tuple[Members, Members] | None = None) -> tuple[FunctionChange, ...]:
    """What is to be done to the functions of one tvm.IRModule to get those of the other; empty when nothing is.

    A Relax function alone in one module and another one alone in the other are taken for one that was renamed
    ("main became step"). Functions that did not change are left out. ``members`` names the fields of parameters that
    are tuples, before and after; the functions are then compared as if they took the fields singly.
    """
    kernels = KernelDiff(before, after)
    old, new = (_relax_functions(module) for module in (before, after))
    pairs = [(name, name) for name in old if name in new]
    gone, come = ([name for name in part if name not in rest] for part, rest in ((old, new), (new, old)))
    if len(gone) == len(come) == 1:
        pairs.append((gone.pop(), come.pop()))
    changes = [_changed_function((x, y), old[x], new[y], kernels.names, members or ({}, {})) for x, y in pairs]
    changes += [_whole_function(name, old[name], "removed") for name in gone]
    changes += [_whole_function(name, new[name], "added") for name in come]
    return (*(change for change in changes if change is not None), *kernels.changes())


def render(changes: Iterable[FunctionChange]) -> Iterator[str]:
    """The changes as plain lines: "- " is removed, "+ " added, two blanks unchanged, "@@ " the title of a hunk."""
    prefixes = {"removed": "- ", "added": "+ ", "same": "  "}
    for number, change in enumerate(changes):
        if number:
            yield ""
        yield f"{change.name}: {change.status}"
        for hunk in change.hunks:
            yield f"@@ {hunk.title}" + (f" ({hunk.repeats})" if hunk.repeats else "")
            for line in hunk.lines:
                yield prefixes[line.kind] + line.text


def _relax_functions(module: Any) -> dict[str, Any]:
    functions = {str(gv.name_hint): function for gv, function in module.functions_items()}
    return {name: functions[name] for name in sorted(functions) if isinstance(functions[name], relax.Function)}


def _changed_function(
    names: tuple[str, str], before: Any, after: Any, kernels: Mapping[str, str], members: tuple[Members, Members]
) -> FunctionChange | None:
    """What changed from one function to the other; None when nothing did."""
    in_both = tuple_fields(before).keys() & tuple_fields(after).keys()
    shown = [
        {
            name: given.get(name) or fields
            for name, fields in tuple_fields(f).items()
            if name in given or name in in_both
        }
        for f, given in zip((before, after), members, strict=True)
    ]
    symbols = renamed_symbols(before, after)
    old = View(before, symbols=symbols, kernels=kernels, members=shown[0])
    new = View(after, members=shown[1])
    # What is a tuple on one side alone stays one; its fields are those that the other side has singly.
    places = places_of(old, member_names(after, before)), places_of(new, member_names(before, after))
    # Removed lines show the names of their own side.
    own = View(before, members=shown[0]) if symbols or kernels else old
    found = hunks(signature_lines(old, new, own), "signature") + hunks(body_lines(Pairing(old, new, places), own))
    if names[0] != names[1]:
        return FunctionChange(name=f"{names[0]} became {names[1]}", status="changed", hunks=found)
    return FunctionChange(name=names[0], status="changed", hunks=found) if found else None


def _whole_function(name: str, function: Any, status: Literal["added", "removed"]) -> FunctionChange:
    """A function that only one module has, as the difference from one without parameters and bindings."""
    nothing = relax.Function([], relax.SeqExpr([], relax.Tuple([])), relax.TupleType([]), True)
    pair = (nothing, function) if status == "added" else (function, nothing)
    change = _changed_function((name, name), *pair, {}, ({}, {}))
    return FunctionChange(name=name, status=status, hunks=change.hunks if change is not None else ())
