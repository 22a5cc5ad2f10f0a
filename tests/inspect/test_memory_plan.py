"""The memory plan against the module that the virtual machine gets."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from tvm import relax

from vamc_py.inspect.costs import StepSize, tensor_bytes
from vamc_py.inspect.final_graph import FinalGraph, final_graph
from vamc_py.inspect.memory_plan import memory_plan
from vamc_py.inspect.report_model import MemoryPlan
from vamc_py.pipeline.build import lowering
from vamc_py.pipeline.graph import bindings, operator_name
from vamc_py.pipeline.program import STEP

LARGEST = StepSize(tokens=64, rows=64, start=0, context=128)  # the limits of support.end_to_end
VOCAB, FLOAT = 288, 4


@pytest.fixture(scope="module", params=["dump_with_kernels", "dump_with_loops"])
def graph(request: pytest.FixtureRequest) -> FinalGraph:
    return final_graph(request.getfixturevalue(request.param))


@pytest.fixture(scope="module")
def plan(graph: FinalGraph) -> MemoryPlan:
    return memory_plan(graph, LARGEST)


def test_storages_are_those_of_the_lowered_module(graph: FinalGraph, plan: MemoryPlan) -> None:
    calls = [value for _, value in bindings(lowering()(graph.program.module)[STEP])]
    shapes = [call.args[0] for call in calls if operator_name(call) == "relax.vm.alloc_storage"]
    # The logits' size, the last, is computed when the step runs: the plan leaves results out.
    assert isinstance(shapes.pop(), relax.Var)
    *planned, logits = plan.storages
    assert [int(shape.values[0]) for shape in shapes] == [storage.bytes for storage in planned]
    assert (logits.bytes, logits.values) == (64 * VOCAB * FLOAT, (graph.calls[-1].name,))


def test_values_of_one_storage_live_one_after_the_other(graph: FinalGraph, plan: MemoryPlan) -> None:
    position = {call.name: index for index, call in enumerate(graph.calls)}
    last_reader = {
        argument.name: index
        for index, call in enumerate(graph.calls)
        for argument in call.arguments
        if argument.kind == "node"
    }
    for storage in plan.storages:
        written = [position[name] for name in storage.values]
        assert (storage.first, storage.last) == (written[0], max(written[-1], storage.last))
        for before, after in pairwise(storage.values):
            # A call with two results may put them apart; nothing else is overwritten while it is still read.
            parts = sum(storage.values.count(before) for storage in plan.storages)
            assert parts > 1 or last_reader[before] < position[after]


def test_every_result_has_a_place(graph: FinalGraph, plan: MemoryPlan) -> None:
    placed = Counter(name for storage in plan.storages for name in storage.values)
    assert placed == {call.name: len(call.results) for call in graph.calls}


def test_live_bytes_are_those_of_values_that_are_still_read(graph: FinalGraph, plan: MemoryPlan) -> None:
    for index, call in enumerate(graph.calls):
        later = {(one.name, one.part) for user in graph.calls[index:] for one in user.arguments if one.kind == "node"}
        earlier = [(before, part) for before in graph.calls[:index] for part in range(len(before.results))]
        held = [before.results[part] for before, part in earlier if (before.name, part) in later]
        assert plan.live[index] == sum(tensor_bytes(kind, LARGEST) for kind in (*held, *call.results))
    assert max(plan.live) <= plan.activations


def test_parameters_and_caches(graph: FinalGraph, plan: MemoryPlan) -> None:
    head_dim, item = (16, 2) if str(graph.caches[0].dtype) == "float16" else (8, FLOAT)
    assert plan.caches == 2 * 2 * 128 * 2 * head_dim * item  # layers, k and v, positions, key/value heads
    assert plan.parameters == sum(tensor_bytes(kind, LARGEST) for kind in graph.parameters) > 0
    assert plan.activations == sum(storage.bytes for storage in plan.storages)
    assert plan.peak == plan.parameters + plan.caches + plan.activations
