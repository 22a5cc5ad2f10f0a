"""The graph that runs, for the report: its calls with their layer, parameters and costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import relax

from vamc_py.artifact.verify import VACC
from vamc_py.errors import UserError
from vamc_py.inspect.bindings import View, dimensions_text
from vamc_py.inspect.calls import Argument, Call, Names, fused_module, read_calls
from vamc_py.inspect.costs import StepSize, cost, tensor_bytes
from vamc_py.inspect.dump import Dump, StageRecord
from vamc_py.inspect.layers import layers_of
from vamc_py.inspect.report_model import Node
from vamc_py.pipeline.program import STEP, Program, layout
from vamc_py.weights.plan import ParameterPlan


@dataclass(frozen=True)
class FinalGraph:
    """The step that the virtual machine runs."""

    program: Program  # as the last pass left it: caches and parameters are a tuple each
    module: Any  # the same as TVM's own passes leave it before they plan memory
    names: Names
    calls: tuple[Call, ...]

    @property
    def caches(self) -> list[Any]:
        """Types of the caches."""
        return list(self.program.function.params[-2].ty.fields)

    @property
    def parameters(self) -> list[Any]:
        """Types of the parameters."""
        return list(self.program.function.params[-1].ty.fields)


def final_graph(dump: Dump) -> FinalGraph:
    """The graph that a dump ends in. UserError for a dump that ends before the module is complete."""
    last = dump.find("last")
    if dump.context().target.kind == VACC:
        raise UserError(
            f"{dump.folder}: of the vacc target, whose result are programs of a device model and no module; "
            "`vamc-py simulate CONFIG --trace FILE` shows what takes their time, `vamc-py runstream show ARTIFACT` "
            "what they are"
        )
    program = dump.program(last)
    names = _names(dump)
    if program.name != STEP or names is None:
        raise UserError(
            f"{dump.folder}: the passes end after {last.label}, before there is a module to report on; "
            "a report needs a compile that went through all passes"
        )
    module = fused_module(program, dump.context().target)
    return FinalGraph(program, module, names, read_calls(module[STEP], module, names))


def nodes(graph: FinalGraph, decode: StepSize, prefill: StepSize) -> tuple[Node, ...]:
    """The calls as the report shows them, with what they cost in these two steps."""
    placed = zip(graph.calls, layers(graph), strict=True)
    return tuple(_node(call, layer, decode, prefill) for call, layer in placed)


def layers(graph: FinalGraph) -> list[int | None]:
    """The layer of each call; None before and behind the layers, and for what serves several."""
    function = graph.module[STEP]
    view = View(function)
    bundles = (graph.names.caches, graph.names.parameters)
    members = {str(var.name): names for var, names in zip(function.params[-2:], bundles, strict=True)}
    found = layers_of(view, members)
    numbers = [view.number(call.var) for call in graph.calls]
    return [None if number is None else found[number - len(view.parameters)] for number in numbers]


def _names(dump: Dump) -> Names | None:
    """The names that caches and parameters had before they became tuples; None where they never did."""
    if not _bundled(dump, dump.find("last")):
        return None
    stage = next(stage for stage in reversed(dump.index.stages) if not _bundled(dump, stage))
    function = Program(dump.module(stage), ParameterPlan()).function
    return Names(*(tuple(str(var.name) for var in part) for part in layout(function)))


def _bundled(dump: Dump, stage: StageRecord) -> bool:
    parameters = Program(dump.module(stage), ParameterPlan()).function.params
    return len(parameters) > 1 and all(isinstance(var.ty, relax.TupleType) for var in parameters[-2:])


def _node(call: Call, layer: int | None, decode: StepSize, prefill: StepSize) -> Node:
    parameters = {one.name: one.type for one in call.arguments if one.kind == "parameter"}
    decoding, prefilling = cost(call, decode), cost(call, prefill)
    return Node(
        id=call.name,
        kind=call.operator,
        kernel=call.symbol if call.ours else "",
        layer=layer,
        inputs=tuple(dict.fromkeys(one.name for one in call.arguments if _is_edge(one))),
        shape=dimensions_text(call.results[0].shape) if call.results else "",
        dtype=str(call.results[0].dtype) if call.results else "",
        parameters=tuple(_described(name, kind) for name, kind in parameters.items()),
        parameter_bytes=sum(tensor_bytes(kind, decode) for kind in parameters.values()),
        decode_bytes=decoding.bytes,
        decode_operations=decoding.operations,
        prefill_bytes=prefilling.bytes,
        prefill_operations=prefilling.operations,
    )


def _is_edge(argument: Argument) -> bool:
    return argument.kind in ("node", "input", "cache")


def _described(name: str, kind: Any) -> str:
    return f"{name} {kind.dtype}{dimensions_text(kind.shape)}"
