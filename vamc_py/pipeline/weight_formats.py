"""Giving weights of linear layers and embeddings another format: parameters, calls and recipes together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tvm import relax

from vamc_py.dialect import LinearCall, embedding
from vamc_py.pipeline.graph import Graph
from vamc_py.pipeline.matching import shape
from vamc_py.pipeline.program import Program, layout
from vamc_py.weights.formats import SCALE, ZERO, WeightFormat
from vamc_py.weights.plan import ParameterPlan, Recipe


@dataclass(frozen=True)
class Quantized:
    """What a weight becomes: its format, and how its values, its scales and its zero points (if any) are made."""

    form: WeightFormat
    values: Recipe
    scale: Recipe
    zero: Recipe | None = None


def with_formats(program: Program, chosen: Mapping[Any, Quantized]) -> Program:
    """The program with each weight of `chosen`, float32 [N, K], in its format, wherever linear layers and embeddings
    read it. An embedding takes int8 with one scale a row; ValueError for another format.
    """
    graph = Graph(program.function)
    inputs, caches, weights = layout(program.function)
    new = {weight: _parameters(weight, quantized.form) for weight, quantized in chosen.items()}
    for var, call in graph.calls("relax.vamc.linear"):
        if call.args[1] in new:
            values, scale, *zero = new[call.args[1]]
            form = chosen[call.args[1]].form
            layer = replace(LinearCall.of(call), weight=values, scale=scale, zero=zero[0] if zero else None)
            graph.replace(var, replace(layer, bits=form.bits, group=form.group or 0).make())
    for var, call in graph.calls("relax.vamc.embedding"):
        if call.args[1] in new:
            if chosen[call.args[1]].form != WeightFormat("int8"):
                raise ValueError(f"the embedding's table {call.args[1].name} has one scale a row, or none")
            graph.replace(var, embedding(call.args[0], *new[call.args[1]], first=call.attrs.get("first")))
    parameters: list[Any] = []
    recipes: dict[str, Recipe] = {}
    for weight in weights:
        made: list[Recipe | None] = [program.plan[weight.name]]
        if weight in chosen:
            made = [chosen[weight].values, chosen[weight].scale, chosen[weight].zero]
        for parameter, recipe in zip(new.get(weight, [weight]), made, strict=False):
            assert recipe is not None
            parameters.append(parameter)
            recipes[parameter.name] = recipe
    function = graph.rebuild(parameters=[*inputs, *caches, *parameters])
    return program.with_function(function, plan=ParameterPlan(recipes))


def _parameters(weight: Any, form: WeightFormat) -> list[Any]:
    """The variables of a weight in that format: values, scale and, where it has them, zero points."""
    of_groups = form.scale_shape(*(int(dimension) for dimension in shape(weight)))
    made = [
        relax.Var(weight.name, relax.TensorType(shape(weight), form.dtype)),
        relax.Var(weight.name + SCALE, relax.TensorType(of_groups, form.scale)),
    ]
    return [*made, relax.Var(weight.name + ZERO, relax.TensorType(of_groups, "int8"))] if form.zeros else made
