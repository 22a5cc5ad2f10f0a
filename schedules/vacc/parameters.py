"""How the weights of a step lie in a die's DDR: which packing each one's users want, and the address of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np

from vamc_py.dialect.linear import LinearCall
from vamc_py.errors import UserError
from vamc_py.pipeline.graph import Graph, operator_name
from vamc_py.pipeline.program import Program, layout
from vamc_py.schedules.vacc.emit.decisions import TILE
from vamc_py.schedules.vacc.layout import PackVaccInt4Panels, PackVaccPanels, PadVaccRows
from vamc_py.weights.plan import ParameterPlan, Step

Packing = Literal["plain", "rows", "panels", "panels4"]
"""As it is; one dimension padded to the matrix tile; panels of 16 output rows; the same with two values in a byte."""


@dataclass(frozen=True)
class Packed:
    """A weight as it lies in mod.params."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    packing: Packing

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
    return {var.name: _packed(var, wanted.get(var.name, "plain")) for var in layout(function)[2]}


def packing_plan(program: Program, packed: Mapping[str, Packed]) -> ParameterPlan:
    """The plan of the step's weights with the packing steps."""
    steps: dict[Packing, tuple[Step, ...]] = {
        "plain": (),
        "rows": (PadVaccRows(),),
        "panels": (PackVaccPanels(),),
        "panels4": (PackVaccInt4Panels(),),
    }
    return ParameterPlan({name: program.plan[name].then(*steps[one.packing]) for name, one in packed.items()})


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
