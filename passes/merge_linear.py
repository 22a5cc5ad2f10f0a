"""merge-linear: linear layers of the same input become one (q, k, v; gate, up)."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, ClassVar

from tvm import relax

from vamc_py.config.patterns import rule_of
from vamc_py.dialect import LinearCall, linear
from vamc_py.pipeline.base import Context, Pass, Stage
from vamc_py.pipeline.graph import Graph
from vamc_py.pipeline.matching import shape
from vamc_py.pipeline.program import Program, layout
from vamc_py.weights.plan import ParameterPlan, Recipe


@dataclass(frozen=True)
class MergeLinear(Pass):
    """Linear layers that read the same value become one product with the weights below each other, then a split.

    One launch instead of two or three, and the input is read and quantized once. Only layers that all have a bias, or
    all none, whose parameters nothing else uses and are float32 still; that come quantized alike, or not at all; and
    whose weights have the same type by their first fitting rule among ``rules``, ``PATTERN=TYPE`` each.
    """

    rules: tuple[str, ...] = ()

    name: ClassVar[str] = "merge-linear"
    stage: ClassVar[Stage] = "rewrite"
    after: ClassVar[tuple[str, ...]] = ("raise-linear",)
    example: ClassVar[str] = """
@I.ir_module
class Module:
    @R.function
    def main(
        x: R.Tensor(("n", 8), "float32"),
        gate_proj: R.Tensor((4, 8), "float32"),
        up_proj: R.Tensor((4, 8), "float32"),
    ):
        R.func_attr({"vamc.inputs": 1})
        with R.dataflow():
            gate = R.vamc.linear(x, gate_proj, bias=False, residual=False)
            up = R.vamc.linear(x, up_proj, bias=False, residual=False)
            out = R.vamc.swiglu(gate, up)
            R.output(out)
        return out
"""

    def apply(self, program: Program, context: Context) -> Program:
        graph = Graph(program.function)
        inputs, caches, weights = layout(program.function)
        plan = program.plan
        for (_, with_bias, *_), members in self._groups(graph, weights, program.plan, context).items():
            merged: list[Any] = []
            for position in range(1, 3 if with_bias else 2):
                parts = [graph.values[var].args[position] for var in members]
                parameter, plan = _merge_parameters(parts, plan)
                merged.append(parameter)
                weights = [w for w in weights if w not in parts] + [parameter]
            _replace(graph, members, merged, bias=with_bias)
        function = graph.rebuild(parameters=[*inputs, *caches, *weights])
        return program.with_function(function, plan=plan.only([weight.name for weight in weights]))

    def _groups(
        self, graph: Graph, weights: list[Any], plan: ParameterPlan, context: Context
    ) -> dict[tuple[Any, ...], list[Any]]:
        """Mergeable linear layers by (input, has a bias, format, rule), in order of appearance, two or more each."""
        groups: dict[tuple[Any, ...], list[Any]] = defaultdict(list)
        own = {
            w for w in weights if str(w.ty.dtype) == "float32" and len(graph.users[w]) == 1 and not graph.is_result(w)
        }
        for var, call in graph.calls("relax.vamc.linear"):
            layer = LinearCall.of(call)
            if own.issuperset(call.args[1:]) and layer.residual is None and layer.prologue == "none":
                sources = plan[layer.weight.name].sources
                kept = tuple(dict.fromkeys(context.formats.get(source) for source in sources))
                key = graph.origin(layer.x), layer.bias is not None, kept, rule_of(self.rules, sources)
                groups[key].append(var)
        return {key: members for key, members in groups.items() if len(members) > 1}


def _merge_parameters(parts: list[Any], plan: ParameterPlan) -> tuple[Any, ParameterPlan]:
    """One parameter that holds the parts' rows, and the plan for it."""
    steps = plan[parts[0].name].steps
    if any(plan[part.name].steps != steps for part in parts):
        raise ValueError(f"weights that are made differently cannot be merged: {[part.name for part in parts]}")
    name = _merged_name([part.name for part in parts])
    sources = tuple(source for part in parts for source in plan[part.name].sources)
    rows = sum(int(shape(part)[0]) for part in parts)
    parameter = relax.Var(name, relax.TensorType([rows, *shape(parts[0])[1:]], "float32"))
    return parameter, plan.with_recipes({name: Recipe(sources, steps)})


def _merged_name(names: list[str]) -> str:
    """``a.q_proj.weight`` and ``a.k_proj.weight`` -> ``a.q_proj+k_proj.weight``."""
    split = [name.split(".") for name in names]
    if len({len(parts) for parts in split}) != 1:
        return "+".join(names)
    columns = zip(*split, strict=True)
    return ".".join(column[0] if len(set(column)) == 1 else "+".join(column) for column in columns)


def _replace(graph: Graph, members: list[Any], merged: list[Any], *, bias: bool) -> None:
    x = graph.values[members[0]].args[0]
    product = graph.bind(linear(x, *merged, bias=bias), "merged")
    ends: list[int] = []
    for var in members:
        ends.append((ends[-1] if ends else 0) + int(shape(var)[-1]))
    parts = graph.bind(relax.op.split(product, ends[:-1], axis=len(shape(x)) - 1), "parts")
    for index, var in enumerate(members):
        graph.replace(var, relax.TupleGetItem(parts, index))
