"""select-rows-early: the last layer's work on single tokens is done for the wanted tokens alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from tvm import relax

from vamc_py.dialect import select_rows
from vamc_py.pipeline.base import Context, Pass, Stage
from vamc_py.pipeline.graph import Graph, operator_name, variables
from vamc_py.pipeline.matching import ELEMENTWISE, same_dimension, shape, static
from vamc_py.pipeline.program import Program

_BY_ROW = {f"relax.vamc.{name}" for name in ("linear", "rms_norm", "swiglu")} | ELEMENTWISE


@dataclass(frozen=True)
class SelectRowsEarly(Pass):
    """``select_rows(f(x, y), rows)`` becomes ``f(select_rows(x, rows), select_rows(y, rows))``, for as much as computes
    each row by itself and is read for those rows only.

    Behind the last attention that is everything, so that a prompt's last layer projects, and goes through its
    feed-forward part, for one token instead of all. Chains without a linear layer stay: there is nothing to save.
    """

    name: ClassVar[str] = "select-rows-early"
    stage: ClassVar[Stage] = "rewrite"
    after: ClassVar[tuple[str, ...]] = (
        "flatten-batch",
        "merge-linear",
        "fuse-swiglu",
        "fuse-residual",
        "fuse-attention",
    )
    example: ClassVar[str] = """
@I.ir_module
class Module:
    @R.function
    def main(
        x: R.Tensor(("n", 8), "float32"),
        rows: R.Tensor(("m",), "int32"),
        weight: R.Tensor((8, 8), "float32"),
    ):
        R.func_attr({"vamc.inputs": 2})
        with R.dataflow():
            hidden = R.vamc.linear(x, weight, x, bias=False, residual=True)
            out = R.vamc.select_rows(hidden, rows)
            R.output(out)
        return out
"""

    def apply(self, program: Program, context: Context) -> Program:
        graph = Graph(program.function)
        for var, call in graph.calls("relax.vamc.select_rows"):
            x, rows = call.args
            chain = _chain(graph, var, graph.origin(x))
            if any(graph.call(one, "relax.vamc.linear") is not None for one in chain):
                graph.replace(var, _Selected(graph, chain, rows).of(x))
        return program.with_function(graph.rebuild())


class _Selected:
    """The wanted rows of values, each made once: ``chain`` computes on them, of all else they are selected."""

    def __init__(self, graph: Graph, chain: set[Any], rows: Any) -> None:
        self._graph, self._chain, self._rows = graph, chain, rows
        self._known: dict[Any, Any] = {}

    def of(self, expression: Any) -> Any:
        """The variable with the wanted rows of ``expression``."""
        var = self._graph.origin(expression)
        if var not in self._known:
            name = var.name if var in self._chain else f"wanted_{var.name}"
            self._known[var] = self._graph.bind(self._computed(var), name)
        return self._known[var]

    def _computed(self, var: Any) -> Any:
        if var not in self._chain:
            return select_rows(var, self._rows)
        call = self._graph.value(var)
        arguments = [self.of(one) if _has_rows(one, shape(call)[0]) else one for one in call.args]
        return relax.Call(call.op, arguments, call.attrs, call.ty_args)


def _chain(graph: Graph, select: Any, x: Any) -> set[Any]:
    """What computes x row by row and is read by ``select`` alone, or by others of these."""
    dimensions = shape(x)
    if len(dimensions) != 2 or static(dimensions[0]) is not None:
        return set()  # rows are known by their number, which has to be a symbol
    found: set[Any] = set()
    for var in reversed(list(graph.values)):
        value = graph.values[var]
        read_by = graph.users[var]
        if not read_by or graph.is_result(var) or not all(user == select or user in found for user in read_by):
            continue
        if isinstance(value, relax.Var) or _by_row(value, dimensions[0]):
            found.add(var)
    return found


def _by_row(value: Any, n: Any) -> bool:
    """Whether a call computes row i of its result [n, …] from rows i of its arguments [n, …] and what has no rows."""
    if operator_name(value) not in _BY_ROW or not _has_rows(value, n):
        return False
    return all(_has_rows(one, n) or not any(same_dimension(d, n) for d in shape(one)) for one in variables(value))


def _has_rows(expression: Any, n: Any) -> bool:
    dimensions = shape(expression)
    return len(dimensions) == 2 and same_dimension(dimensions[0], n) and not same_dimension(dimensions[1], n)
