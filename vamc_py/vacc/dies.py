"""The programs of all dies: sharded, laid out in DDR, written for both stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

import numpy as np
from tvm import relax

from vamc_py.passes.shard_tensors import ShardTensors
from vamc_py.pipeline.base import Context
from vamc_py.pipeline.graph import Graph, bindings, operator_name
from vamc_py.pipeline.matching import constant
from vamc_py.pipeline.program import Program, layout
from vamc_py.pipeline.runner import Planned
from vamc_py.progress import track
from vamc_py.runstream.program import Gather, Stage
from vamc_py.runstream.program import Program as RunstreamProgram
from vamc_py.schedules.vacc.emit.step import Figures, Place, Written, write_step
from vamc_py.schedules.vacc.memory import DdrPlan, plan_ddr
from vamc_py.schedules.vacc.parameters import packed_weights, packing_plan
from vamc_py.weights.plan import Array, ParameterPlan

_EMBEDDING = "relax.vamc.embedding"
_FIRST = "first"


@dataclass(frozen=True)
class Angles:
    """The tables of a rotary embedding."""

    inverse_frequencies: Array  # float32 [dim / 2]
    scaling: float

    def tables(self, positions: int) -> tuple[Array, Array]:
        """Cosines and sines float32 [positions, dim], as R.vamc.rotary_angles defines them."""
        at = np.arange(positions, dtype=np.float32)[:, None] * self.inverse_frequencies.astype(np.float32)
        angles = np.concatenate([at, at], axis=1)
        scaling = np.float32(self.scaling)
        return np.cos(angles) * scaling, np.sin(angles) * scaling


@dataclass(frozen=True)
class Die:
    """One die's part of the model."""

    rank: int
    plan: ParameterPlan
    """Of its weights, in the order of mod.params."""
    memory: DdrPlan
    angles: Mapping[str, Angles]
    stages: Mapping[Stage, Written]


def write_dies(
    program: Program,
    pipeline: Sequence[Planned],
    context: Context,
    figures: Figures,
    *,
    ranks: int,
    vocabulary: int,
) -> list[Die]:
    """The dies of a model. `program` is as it was before the first pass that knows a rank; `pipeline` begins with that
    one. UserError where a stage does not fit the device or has an operator without a schedule."""
    dies: list[Die] = []
    written: Program | None = None  # the step of the first die
    for rank in track(range(ranks), "dies"):
        own = program
        for step in of_rank(pipeline, rank):
            own = step.one.apply(own, context)
        if written is not None and same_form(written.function, own.function):
            dies.append(_like(dies[0], own, rank))
        else:
            dies.append(_die(own, context, figures, rank, ranks, vocabulary))
            written = written or own
    return dies


def same_form(one: Any, other: Any) -> bool:
    """Whether two steps are the same but for which part of a table their embeddings have."""
    pairs = list(zip_longest(bindings(one), bindings(other)))
    return all(a is not None and b is not None and _same_binding(*a, *b) for a, b in pairs)


def _same_binding(var: Any, value: Any, other_var: Any, other: Any) -> bool:
    if var.name != other_var.name or operator_name(value) != operator_name(other):
        return False
    if not isinstance(value, relax.Call):
        return True
    attributes = [{key: str(x) for key, x in (call.attrs or {}).items() if key != _FIRST} for call in (value, other)]
    arguments = [[(getattr(x, "name", ""), str(x.ty)) for x in call.args] for call in (value, other)]
    return attributes[0] == attributes[1] and arguments[0] == arguments[1]


def _like(die: Die, program: Program, rank: int) -> Die:
    """Another die, whose step has the same form: its programs differ in the entries of tables that it has."""
    firsts = [int(call.attrs[_FIRST]) for _, call in Graph(program.function).calls(_EMBEDDING) if _FIRST in call.attrs]
    packed = packed_weights(program.function)
    stages = {stage: replace(one, program=_of_rank(one.program, rank, firsts)) for stage, one in die.stages.items()}
    return Die(rank, packing_plan(program, packed), die.memory, die.angles, stages)


def _of_rank(program: RunstreamProgram, rank: int, firsts: Sequence[int]) -> RunstreamProgram:
    if len(set(firsts)) > 1:
        raise ValueError(f"the tables of rank {rank} begin at different entries: {firsts}")
    commands = tuple(
        command.model_copy(update={"first": firsts[0]}) if firsts and isinstance(command, Gather) else command
        for command in program.commands
    )
    return program.model_copy(update={"rank": rank, "commands": commands})


def of_rank(pipeline: Sequence[Planned], rank: int) -> list[Planned]:
    """The passes for another die."""
    return [
        replace(step, one=replace(step.one, rank=rank)) if isinstance(step.one, ShardTensors) else step
        for step in pipeline
    ]


def shared(pipeline: Sequence[Planned]) -> int:
    """How many passes of a pipeline are the same for all dies."""
    return next((index for index, step in enumerate(pipeline) if isinstance(step.one, ShardTensors)), len(pipeline))


def _die(program: Program, context: Context, figures: Figures, rank: int, ranks: int, vocabulary: int) -> Die:
    function = program.function
    packed = packed_weights(function)
    angles = _angles(function)
    memory = plan_ddr(
        packed,
        {name: 2 * one.inverse_frequencies.size for name, one in angles.items()},
        layout(function)[1],
        tokens=context.prefill,
        context=context.context,
        vocabulary=vocabulary,
    )
    lengths: dict[Stage, int] = {"prefill": context.prefill, "decode": 1}
    stages = {
        stage: write_step(function, memory, figures, Place(stage, tokens, context.context, rank, ranks))
        for stage, tokens in lengths.items()
    }
    return Die(rank, packing_plan(program, packed), memory, angles, stages)


def _angles(function: Any) -> dict[str, Angles]:
    graph = Graph(function)
    found = {}
    for var, call in graph.calls("relax.vamc.rotary_angles"):
        frequencies = constant(graph.value(call.args[1]))
        assert frequencies is not None, f"{operator_name(call)} of frequencies that are not known"
        found[str(var.name)] = Angles(frequencies, float(call.attrs["scaling"]))
    return found
