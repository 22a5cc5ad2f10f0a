"""What lies where in the DDR of a die: parameters, caches, inputs and output, at the same places for both stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from vamc_py.artifact.manifest import PARAMETER_ALIGNMENT
from vamc_py.dialect.int8_cache import SCALE_ROWS
from vamc_py.runstream.program import DdrTensor
from vamc_py.schedules.vacc.emit.decisions import TILE
from vamc_py.schedules.vacc.emit.stage import Ddr
from vamc_py.schedules.vacc.emit.values import Parameter
from vamc_py.schedules.vacc.parameters import Packed


@dataclass
class DdrPlan:
    """Addresses of everything that lasts longer than a step."""

    tensors: list[DdrTensor] = field(default_factory=list)
    parameters: dict[str, Parameter] = field(default_factory=dict)
    angles: dict[str, tuple[Parameter, Parameter]] = field(default_factory=dict)
    """Cosines and sines float32 [context, dim], by the name of the rotary_angles."""
    caches: dict[str, Ddr] = field(default_factory=dict)
    cache_scales: dict[str, Ddr] = field(default_factory=dict)
    """float32 [kv_heads][context], by the name of a cache that is int8."""
    end: int = 0
    """The first byte that nothing has."""

    @property
    def tokens(self) -> Ddr:
        """int32 [tokens of a prefill]."""
        return self._place("tokens")

    @property
    def logits(self) -> Ddr:
        """float32 [vocabulary]."""
        return self._place("logits")

    def add(self, name: str, role: Any, dtype: str, shape: Sequence[int]) -> Ddr:
        """A tensor behind all others."""
        size = prod(shape) * int(np.dtype(dtype).itemsize)
        place = Ddr(name, self.end, size)
        self.tensors.append(
            DdrTensor(name=name, role=role, dtype=dtype, shape=tuple(shape), offset=self.end, size=size)
        )
        self.end += -(-size // PARAMETER_ALIGNMENT) * PARAMETER_ALIGNMENT
        return place

    def _place(self, name: str) -> Ddr:
        tensor = next(tensor for tensor in self.tensors if tensor.name == name)
        return Ddr(name, tensor.offset, tensor.size)


def plan_ddr(
    packed: Mapping[str, Packed],
    angles: Mapping[str, int],
    caches: Sequence[Any],
    *,
    tokens: int,
    context: int,
    vocabulary: int,
) -> DdrPlan:
    """Addresses in the order of mod.params: weights, then tables of angles; then caches, inputs and the output.

    `angles` are the widths of the tables by name, `caches` the step's variables: k and v by turns, [pages, kv_heads,
    blocks, …]. The scales of an int8 cache, which lie behind each block there, have a tensor of their own here.
    """
    plan = DdrPlan()
    for one in packed.values():
        plan.parameters[one.name] = Parameter(
            plan.add(one.name, "parameter", one.dtype, one.shape), one.dtype, one.shape
        )
    for name, dim in angles.items():
        tables = []
        for part in ("cosines", "sines"):
            place = plan.add(f"{name}.{part}", "parameter", "float32", (context, dim))
            tables.append(Parameter(place, "float32", (context, dim)))
        plan.angles[name] = (tables[0], tables[1])
    for number, cache in enumerate(caches):
        is_key = number % 2 == 0
        dtype, kv_heads = str(cache.ty.dtype), int(cache.ty.shape[1])
        dim = int(cache.ty.shape[3]) - SCALE_ROWS if dtype == "int8" else int(cache.ty.shape[3 if is_key else 4])
        form = (kv_heads, context // TILE, dim, TILE) if is_key else (kv_heads, context, dim)
        plan.caches[cache.name] = plan.add(cache.name, "cache", dtype, form)
        if dtype == "int8":
            name = f"{cache.name}.scales"
            plan.cache_scales[cache.name] = plan.add(name, "cache", "float32", (kv_heads, context))
    plan.add("tokens", "input", "int32", (tokens,))
    plan.add("logits", "output", "float32", (vocabulary,))
    return plan
