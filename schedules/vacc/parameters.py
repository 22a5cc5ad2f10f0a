"""How the weights of a step lie in a die's DDR: which packing each one's users want, and the address of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal

import numpy as np

from vamc_py.dialect.linear import LinearCall
from vamc_py.errors import UserError
from vamc_py.pipeline.graph import Graph, operator_name
from vamc_py.pipeline.program import Program, layout
from vamc_py.schedules.vacc.emit.decisions import TILE
from vamc_py.schedules.vacc.layout import PackVaccInt4Panels, PackVaccPanels, PadVaccRows
from vamc_py.weights.plan import ParameterPlan, Rows, Step

Packing = Literal["plain", "rows", "panels", "panels4"]
"""As it is; one dimension padded to the matrix tile; panels of 16 output rows; the same with two values in a byte."""


@dataclass(frozen=True)
class Packed:
    """A weight as it lies in mod.params."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    packing: Packing
    by_turns: bool = False
    """Its rows are two halves, of which 16 and 16 lie by turns: gate and up, so that a tile has what SwiGLU joins."""

    @property
    def bytes(self) -> int:
        """Of the whole."""
        return prod(self.shape) * int(np.dtype(self.dtype).itemsize)


def packed_weights(function: Any) -> dict[str, Packed]:
    """The packed form of each weight of a step, by its name. UserError where its users want different ones."""
    graph = Graph(function)
    wanted: dict[str, Packing] = {}
    for value in graph.values.values():
        for weight, packing in _packings(graph, value):
            before = wanted.get(weight.name)
            if (before == "plain" and packing == "panels") or (before == "panels" and packing == "plain"):
                packing = "panels"  # a table that lm_head reads, too: the embedding gathers from panels
            elif before is not None and before != packing and {before, packing} != {"plain", "rows"}:
                raise UserError(f"{weight.name} is used in two ways that the vacc target has no common layout for")
            wanted[weight.name] = "rows" if {before, packing} == {"plain", "rows"} else packing
    gated = _gated(graph)
    return {
        var.name: replace(_packed(var, wanted.get(var.name, "plain")), by_turns=var.name in gated)
        for var in layout(function)[2]
    }


def _gated(graph: Graph) -> set[str]:
    """The parameters of the linear layers whose halves SwiGLU joins."""
    found: set[str] = set()
    for var, call in graph.calls("relax.vamc.linear"):
        if is_gated(graph, var):
            parts = LinearCall.of(call)
            found |= {one.name for one in (parts.weight, parts.scale, parts.zero, parts.bias) if one is not None}
    return found


def is_gated(graph: Graph, var: Any) -> bool:
    """Whether all that needs a linear layer's result is one that reads it through SwiGLU."""
    user = graph.values.get(graph.only_user(var))
    return operator_name(user) == "relax.vamc.linear" and LinearCall.of(user).prologue == "swiglu"


def packing_plan(program: Program, packed: Mapping[str, Packed]) -> ParameterPlan:
    """The plan of the step's weights with the packing steps."""
    steps: dict[Packing, tuple[Step, ...]] = {
        "plain": (),
        "rows": (PadVaccRows(),),
        "panels": (PackVaccPanels(),),
        "panels4": (PackVaccInt4Panels(),),
    }
    recipes = {}
    for name, one in packed.items():
        recipe = program.plan[name]
        if one.by_turns:
            rows = {var.name: int(var.ty.shape[0]) for var in layout(program.function)[2]}[name]
            recipe = recipe.choosing(*_by_turns(rows))
        recipes[name] = recipe.then(*steps[one.packing])
    return ParameterPlan(recipes)


def _by_turns(rows: int) -> list[Rows]:
    """16 rows of the first half, 16 of the second, and so on."""
    half = rows // 2
    if half % TILE:
        raise UserError(f"a feed-forward width of {half} on a die is no multiple of {TILE}, which vacc multiplies by")
    return [Rows(start + at, start + at + TILE) for at in range(0, half, TILE) for start in (0, half)]


def _packings(graph: Graph, value: Any) -> list[tuple[Any, Packing]]:
    operator = operator_name(value)
    if operator == "relax.vamc.linear":
        parts = LinearCall.of(value)
        weight: Packing = "panels4" if parts.bits == 4 else "panels"
        scales: Packing = "panels" if parts.group else "rows"
        roles: list[tuple[Any, Packing]] = [
            (parts.weight, weight), (parts.scale, scales), (parts.zero, scales), (parts.bias, "rows"),
            (parts.norm, "plain"),
        ]  # fmt: skip
        return [(var, packing) for var, packing in roles if var is not None]
    if operator in ("relax.vamc.embedding", "relax.vamc.qkv_attention"):
        names = {parameter.name for parameter in layout(graph.function)[2]}
        return [(one, "plain") for one in value.args if getattr(one, "name", None) in names]
    return []


def _packed(var: Any, packing: Packing) -> Packed:
    shape = tuple(int(extent) for extent in var.ty.shape)
    dtype = str(var.ty.dtype)
    panels = -(-shape[0] // TILE)
    if packing == "rows":
        shape = (panels * TILE, *shape[1:])
    elif packing == "panels":
        dtype = "uint8" if dtype == "float8_e4m3fn" else dtype  # its bits
        shape = (panels, shape[1], TILE)
    elif packing == "panels4":
        dtype, shape = "uint8", (panels, -(-shape[1] // 2), TILE)
    return Packed(var.name, dtype, shape, packing)
