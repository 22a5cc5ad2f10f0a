"""What the passes work on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import tvm

from vamc_py.weights.plan import ParameterPlan

MAIN = "main"
STEP = "step"
# Function attributes that say what the parameters are: first the inputs, then the caches, then the weights.
INPUTS_ATTRIBUTE = "vamc.inputs"
CACHES_ATTRIBUTE = "vamc.caches"
# What the attention_mask of main means: "additive" (added to the scores) or "ones" (1 where a token attends).
MASK_ATTRIBUTE = "vamc.mask"
# Set on a step that takes the tokens of one slot at a time only.
ONE_SLOT_ATTRIBUTE = "vamc.one_slot"
# On a kernel: the operator that it serves ("linear", "qkv_attention", "add").
OPERATOR_ATTRIBUTE = "vamc.operator"
# On the kernel of a linear layer, where it is not "int16" or "none": its activation, the most rows for which it is
# int16 anyhow, and its prologue (see R.vamc.linear). On a step: the activation of its int8 linear layers, and the rows.
ACTIVATION_ATTRIBUTE = "vamc.activation"
WIDE_ROWS_ATTRIBUTE = "vamc.wide_rows"
PROLOGUE_ATTRIBUTE = "vamc.prologue"
# On the kernel of an attention that is not "float32": what it multiplies where a slot has more than the wide rows.
PRODUCTS_ATTRIBUTE = "vamc.products"


@dataclass(frozen=True)
class Program:
    """A Relax module, how its weights are made, and what a reader of the result should know.

    The module holds ``main`` (one sequence, as traced) until the KV-cache layout pass turns it into ``step`` (ragged).
    """

    module: Any  # tvm.IRModule
    plan: ParameterPlan
    notes: tuple[str, ...] = ()  # one sentence each: what did not fire, what stayed slow

    @property
    def name(self) -> str:
        """The function's name: "main" or "step"."""
        return STEP if STEP in {gv.name_hint for gv in self.module.get_global_vars()} else MAIN

    @property
    def function(self) -> Any:
        """The Relax function."""
        return self.module[self.name]

    def with_function(self, function: Any, *, plan: ParameterPlan | None = None, name: str | None = None) -> Program:
        """The program with another Relax function, its kernels kept; ``name`` renames it."""
        old, new = self.name, name or self.name
        functions = {gv: f for gv, f in self.module.functions_items() if new == old or gv.name_hint != old}
        module = tvm.IRModule(functions, attrs=self.module.attrs)
        module[new] = function.with_attr("global_symbol", new)
        return replace(self, module=module, plan=self.plan if plan is None else plan)

    def note(self, *sentences: str) -> Program:
        """The program with more notes."""
        return replace(self, notes=(*self.notes, *sentences))


def attribute(function: Any, name: str, default: int) -> int:
    """An integer attribute of a function."""
    attributes: Mapping[str, Any] = function.attrs or {}
    return int(attributes[name]) if name in attributes else default


def layout(function: Any) -> tuple[list[Any], list[Any], list[Any]]:
    """The function's parameters as (inputs, caches, weights)."""
    inputs = attribute(function, INPUTS_ATTRIBUTE, 0)
    caches = attribute(function, CACHES_ATTRIBUTE, 0)
    parameters = list(function.params)
    return parameters[:inputs], parameters[inputs : inputs + caches], parameters[inputs + caches :]
