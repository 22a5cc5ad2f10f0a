"""Graph: looking up, replacing and rebuilding the bindings of a function."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from support.relax_modules import Compiled, program_of
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from vamc_py.pipeline.graph import Graph, operator_name, variables


@I.ir_module
class Small:
    @R.function
    def main(x: R.Tensor(("n", 4), "float32"), y: R.Tensor(("n", 4), "float32"), unused: R.Tensor((2,), "float32")):
        R.func_attr({"vamc.inputs": 2, "note": "kept"})
        with R.dataflow():
            total = R.add(x, y)
            same = total
            product = R.multiply(same, x)
            dead = R.exp(product)
            unread = R.tanh(dead)  # noqa: F841
            square = R.multiply(product, product)
            pair = (square, total)
            first = pair[0]
            gv = (first, total)
            R.output(gv)
        return gv


def graph_and_names() -> tuple[Graph, dict[str, Any]]:
    graph = Graph(Small["main"])
    return graph, {var.name: var for var in [*graph.parameters, *graph.values]}


def test_parameters_by_name() -> None:
    graph, names = graph_and_names()
    assert graph.parameter("y") == names["y"]
    with pytest.raises(KeyError, match="z"):
        graph.parameter("z")


def test_values_through_renamings() -> None:
    graph, names = graph_and_names()
    assert operator_name(graph.value(names["same"])) == "relax.add"
    assert graph.origin(names["same"]) == names["total"]
    assert graph.origin(names["x"]) == graph.value(names["x"]) == names["x"]
    two = relax.const(2.0)
    assert graph.value(two) is two


def test_calls() -> None:
    graph, names = graph_and_names()
    assert [var.name for var, _ in graph.calls("relax.multiply")] == ["product", "square"]
    assert graph.call(names["same"], "relax.add").args[0] == names["x"]
    for expression, operator in ((names["same"], "relax.multiply"), (names["x"], "relax.add"), (names["pair"], "")):
        assert operator == "" or graph.call(expression, operator) is None
    both = graph.either(names["product"], "relax.multiply")
    assert both == [(names["same"], names["x"]), (names["x"], names["same"])]
    assert graph.either(names["product"], "relax.add") == []


def test_users() -> None:
    graph, names = graph_and_names()
    assert graph.only_user(names["same"]) == names["product"]
    assert graph.only_user(names["dead"]) == names["unread"]
    # Used twice by one, by several, by none, and returned besides.
    assert graph.only_user(names["product"]) is None
    assert graph.only_user(names["x"]) is None
    assert graph.only_user(names["unused"]) is None
    assert graph.only_user(names["total"]) is None


def test_outputs_are_what_is_returned() -> None:
    graph, names = graph_and_names()
    assert graph.outputs() == [names["first"], names["total"]]
    assert graph.is_result(names["total"])
    assert not graph.is_result(names["square"])


def test_variables_of_an_expression() -> None:
    _, names = graph_and_names()
    x, y = names["x"], names["y"]
    nested = relax.op.add(relax.op.multiply(x, y), relax.TupleGetItem(relax.Tuple([x, y]), 0))
    assert variables(nested) == [x, y, x, y]
    assert variables(relax.const(1.0)) == []


def results(function: Any) -> list[np.ndarray[Any, Any]]:
    x, y = np.arange(24, dtype="float32").reshape(2, 3, 4) / 24
    return Compiled(program_of(tvm.IRModule({"main": function})))(x, y, np.zeros(2, "float32"))


def test_rebuild_drops_the_dead_and_keeps_the_rest() -> None:
    rebuilt = Graph(Small["main"]).rebuild()
    assert [var.name for var in Graph(rebuilt).values][:4] == ["total", "product", "square", "pair"]
    assert rebuilt.attrs["vamc.inputs"] == 2
    assert rebuilt.attrs["note"] == "kept"
    assert [p.name for p in rebuilt.params] == ["x", "y", "unused"]
    for left, right in zip(results(rebuilt), results(Small["main"]), strict=True):
        np.testing.assert_array_equal(left, right)


def test_replace_and_bind() -> None:
    graph, names = graph_and_names()
    root = graph.bind(relax.op.sqrt(names["total"]), "root")
    assert root.ty.shape[0].name == "n"
    assert int(root.ty.shape[1]) == 4
    assert root in graph.users[names["total"]]
    graph.replace(names["product"], relax.op.subtract(root, relax.const(1.0)))
    square, total = results(graph.rebuild())
    np.testing.assert_allclose(square, (np.sqrt(total) - 1) ** 2, rtol=1e-6)


def test_rebuild_infers_types_anew() -> None:
    graph, names = graph_and_names()
    wide = relax.Var("wide", relax.TensorType([5, 4], "float32"))
    function = graph.rebuild(
        parameters=[wide],
        substitute={names["x"]: wide, names["y"]: relax.op.negative(wide)},
        outputs=[names["square"]],
        attributes={"vamc.inputs": 1},
    )
    assert [int(d) for d in function.ret_ty.shape] == [5, 4]
    assert function.attrs["vamc.inputs"] == 1
    assert "note" not in function.attrs
    relax.analysis.well_formed(tvm.IRModule({"main": function}))
    # The old function is as it was.
    tvm.ir.assert_structural_equal(Graph(Small["main"]).function, Small["main"])


CHOICES = st.lists(st.tuples(st.sampled_from(["add", "multiply", "maximum"]), st.integers(0, 50), st.integers(0, 50)))


@settings(max_examples=15, deadline=None)
@given(choices=CHOICES.filter(bool), last=st.integers(0, 50))
def test_rebuild_keeps_any_graph_s_meaning(choices: list[tuple[str, int, int]], last: int) -> None:
    """Random graphs: bindings over earlier ones, one of them returned; every binding left is needed and in order."""
    x = relax.Var("x", relax.TensorType([3], "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            values = [x]
            for operator, left, right in choices:
                operands = values[left % len(values)], values[right % len(values)]
                values.append(builder.emit(getattr(relax.op, operator)(*operands)))
            output = builder.emit_output(values[last % len(values)])
        builder.emit_func_output(output)
    before = builder.get()["main"]
    after = Graph(before).rebuild()
    relax.analysis.well_formed(tvm.IRModule({"main": after}))
    graph = Graph(after)
    assert all(graph.users[var] or graph.is_result(var) or var == graph.result for var in graph.values)
    numbers = np.array([0.5, -1.0, 0.25], "float32")
    np.testing.assert_array_equal(evaluate(before, numbers), evaluate(after, numbers))


def evaluate(function: Any, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Interprets add, multiply and maximum."""
    graph = Graph(function)
    known = {graph.parameters[0]: x}
    for var, value in graph.values.items():
        if isinstance(value, relax.Var):
            known[var] = known[value]
        else:
            with np.errstate(all="ignore"):
                known[var] = getattr(np, value.op.name.removeprefix("relax."))(*(known[a] for a in value.args))
    return known[graph.result]
