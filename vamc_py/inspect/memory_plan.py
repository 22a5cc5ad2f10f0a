"""Which memory a step allocates and what lives in it when, as TVM's static plan says."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import ir

from vamc_py.inspect.costs import StepSize, tensor_bytes
from vamc_py.inspect.final_graph import FinalGraph
from vamc_py.inspect.loops import dimension
from vamc_py.inspect.report_model import MemoryPlan, Storage
from vamc_py.pipeline.build import planning
from vamc_py.pipeline.graph import bindings, operator_name, variables
from vamc_py.pipeline.program import STEP
from vamc_py.weights.plan import numpy_dtype

_STORAGE = "relax.memory.alloc_storage"  # (bytes, …): memory that several values use in turn
_TENSOR = "relax.memory.alloc_tensor"  # (storage, …)
_RESULT = "relax.builtin.alloc_tensor"  # (shape, dtype, …): memory for one value that the plan left out: a result


def memory_plan(graph: FinalGraph, largest: StepSize) -> MemoryPlan:
    """What lives where. ``largest`` is the largest step: as many tokens and rows as the module takes.

    The caches are counted for one slot of ``largest.context`` positions. Workspaces that a kernel makes and drops
    within one call are not seen here.
    """
    planned = tvm.transform.Sequential(planning())(graph.module)[STEP]
    reading = _Reading(planned, graph, largest)
    storages = tuple(reading.storages())
    parameters = sum(tensor_bytes(kind, largest) for kind in graph.parameters)
    caches = sum(tensor_bytes(kind, largest) for kind in graph.caches)
    activations = sum(storage.bytes for storage in storages)
    return MemoryPlan(
        parameters=parameters,
        caches=caches,
        activations=activations,
        peak=parameters + caches + activations,
        storages=storages,
        live=reading.live(),
    )


@dataclass(frozen=True)
class _Value:
    """A result of a call, and where it lives."""

    call: int  # index of the call that writes it
    last: int  # index of the call that reads it last
    storage: str
    bytes: int


class _Reading:
    """The storages and values of a planned function."""

    def __init__(self, planned: Any, graph: FinalGraph, largest: StepSize) -> None:
        self.graph = graph
        self.largest = largest
        self.sizes: dict[str, int] = {}  # bytes by storage
        self.values: list[_Value] = []
        self._storage: dict[Any, str] = {}  # of a variable that is a storage or a tensor in one
        self._kept: set[str] = set()  # storages of the function's results
        self._unwritten: set[Any] = set()
        self._last_reader = {
            (argument.name, argument.part): index
            for index, call in enumerate(graph.calls)
            for argument in call.arguments
            if argument.kind == "node"
        }
        calls = 0
        for var, value in bindings(planned):
            if operator_name(value) in (_STORAGE, _TENSOR, _RESULT):
                self._allocate(var, value)
                continue
            outputs = [one for one in variables(value) if one in self._unwritten]
            if outputs or isinstance(getattr(value, "op", None), ir.GlobalVar):
                self._write(calls, outputs)
                calls += 1
        if calls != len(graph.calls):
            raise RuntimeError(f"the planned step makes {calls} calls, the graph has {len(graph.calls)}")

    def storages(self) -> list[Storage]:
        """The storages in the order in which the function makes them."""
        names = [call.name for call in self.graph.calls]
        by_storage = {name: [value for value in self.values if value.storage == name] for name in self.sizes}
        return [
            Storage(
                name=name,
                bytes=self.sizes[name],
                values=tuple(names[value.call] for value in values),
                first=values[0].call,
                last=max(value.last for value in values),
            )
            for name, values in by_storage.items()
        ]

    def live(self) -> tuple[int, ...]:
        """By call: bytes of the values that are written before its end and read from its beginning on."""
        return tuple(
            sum(value.bytes for value in self.values if value.call <= index <= value.last)
            for index in range(len(self.graph.calls))
        )

    def _allocate(self, var: Any, value: Any) -> None:
        operator = operator_name(value)
        if operator == _TENSOR:
            self._storage[var] = self._storage[value.args[0]]
        else:
            name = str(var.name)
            while name in self.sizes:
                name += "_"
            item = 1 if operator == _STORAGE else numpy_dtype(str(value.args[1].value)).itemsize
            self.sizes[name] = item * math.prod(dimension(d, self.largest.symbols) for d in value.args[0].values)
            self._storage[var] = name
        if operator == _RESULT:
            self._kept.add(self._storage[var])
        if operator != _STORAGE:
            self._unwritten.add(var)

    def _write(self, index: int, outputs: list[Any]) -> None:
        call = self.graph.calls[index]
        for part, (output, kind) in enumerate(zip(outputs, call.results, strict=True)):
            self._unwritten.remove(output)
            storage = self._storage[output]
            last = self._last_reader.get((call.name, part), index)
            if storage in self._kept:
                last = len(self.graph.calls) - 1
            self.values.append(_Value(index, last, storage, tensor_bytes(kind, self.largest)))
