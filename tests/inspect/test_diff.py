"""Differences of modules: by binding, and nothing but what changed."""

from __future__ import annotations

from typing import Any

import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from support.random_graphs import Recipe, function_of, orders, recipes
from tvm import relax
from tvm.script import tirx as T

from vamc_py.inspect.bindings import View
from vamc_py.inspect.diff import diff_modules, render
from vamc_py.inspect.dump import Dump
from vamc_py.inspect.folding import Line, hunks
from vamc_py.inspect.report_model import FunctionChange


def module_of(function: Any, name: str = "main") -> Any:
    return tvm.IRModule({name: function})


def changed_lines(changes: tuple[FunctionChange, ...], kind: str) -> list[str]:
    return [line.text for change in changes for hunk in change.hunks for line in hunk.lines if line.kind == kind]


def all_lines(function: Any) -> set[str]:
    view = View(function)
    return {view.line(statement) for statement in view.statements}


@given(st.data())
@settings(deadline=None)
def test_names_and_order_are_no_difference(data: st.DataObject) -> None:
    recipe = data.draw(recipes())
    names = data.draw(st.permutations([f"v{number}" for number in range(len(recipe.bindings))]))
    other = function_of(recipe, order=data.draw(orders(recipe)), names=names, size=data.draw(st.sampled_from("nk")))
    function = function_of(recipe)
    assert diff_modules(module_of(function), module_of(function)) == ()
    assert list(render(diff_modules(module_of(function), module_of(other)))) == []


def test_equal_values_are_told_apart_by_what_is_made_of_both() -> None:
    # exp twice, negative twice, and each sum takes one of each: the choice of the first decides that of the second.
    bindings = (("exp", (0,)), ("exp", (0,)), ("negative", (1,)), ("negative", (1,)), ("add", (2, 4)), ("add", (3, 5)))
    recipe = Recipe((*bindings, ("exp", (1,))), (8,))
    other = function_of(recipe, order=[0, 1, 3, 2, 4, 5, 6], names=[f"w{number}" for number in range(7)])
    assert diff_modules(module_of(function_of(recipe)), module_of(other)) == ()


@given(recipes(), recipes())
@settings(deadline=None)
def test_what_computes_something_else_differs(first: Recipe, second: Recipe) -> None:
    before, after = function_of(first), function_of(second, names=[f"w{n}" for n in range(len(second.bindings))])
    changes = diff_modules(module_of(before), module_of(after))
    if first.trees() != second.trees():
        assert changed_lines(changes, "removed") + changed_lines(changes, "added") != []
    body = [hunk for change in changes for hunk in change.hunks if hunk.title != "signature"]
    assert {line.text for hunk in body for line in hunk.lines if line.kind == "removed"} <= all_lines(before)
    assert {line.text for hunk in body for line in hunk.lines if line.kind == "added"} <= all_lines(after)


@given(st.data())
@settings(deadline=None)
def test_one_changed_binding_alone_is_shown(data: st.DataObject) -> None:
    recipe = data.draw(recipes())
    number = data.draw(st.integers(0, len(recipe.bindings) - 1))
    bindings = list(recipe.bindings)
    bindings[number] = ("sigmoid" if len(bindings[number][1]) == 1 else "subtract", bindings[number][1])
    changes = diff_modules(
        module_of(function_of(recipe)), module_of(function_of(Recipe(tuple(bindings), recipe.results)))
    )
    removed, added = changed_lines(changes, "removed"), changed_lines(changes, "added")
    assert len(removed) == len(added) == 1
    assert removed[0].startswith(f"v{number}: ")
    assert added[0].startswith(f"v{number}: ")


def of_pass(dump: Dump, label: str) -> list[str]:
    """The lines that show what a pass of a dump changed."""
    stage = dump.find(label)
    before = dump.index.stages[stage.index - 1]
    return list(render(diff_modules(dump.module(before), dump.module(stage))))


def test_a_raised_norm_is_five_lines_less_in_all_layers(dump_with_kernels: Dump) -> None:
    lines = of_pass(dump_with_kernels, "raise-rms-norm")
    assert lines[:9] == [
        "main: changed",
        "@@ layer 0 (the same in layer 1)",
        "- lv11: f32[1, n, 64] = power(lv3, f32(2.0))",
        "- lv12: f32[1, n, 1] = mean(lv11, axis=[-1], keepdims=True)",
        "- lv13: f32[1, n, 1] = add(lv12, f32(1e-06))",
        "- lv14: f32[1, n, 1] = rsqrt(lv13)",
        "- lv15: f32[1, n, 64] = multiply(lv3, lv14)",
        "- lv16: f32[1, n, 64] = multiply(model.layers.0.input_layernorm.weight, lv15)",
        "+ lv16: f32[1, n, 64] = vamc.rms_norm(lv3, model.layers.0.input_layernorm.weight, epsilon=1e-06)",
    ]
    assert [line for line in lines if line.startswith("@@")][1:] == ["@@ behind the layers"]
    # Four norms in each layer and the last one.
    assert sum(line.startswith("- ") for line in lines) == 5 * 6
    assert sum(line.startswith("+ ") for line in lines) == 5


def test_a_pass_that_changes_nothing(dump_with_kernels: Dump) -> None:
    assert of_pass(dump_with_kernels, "dense-kv-cache") == []


def test_a_function_that_gets_another_name(dump_with_kernels: Dump) -> None:
    lines = of_pass(dump_with_kernels, "kv-cache-layout")
    assert lines[0] == "main became step: changed"
    for line in ("- attention_mask: f32[1, 1, n, p + n]", "+ pages: i32[s, p]", "- attribute vamc.mask: additive"):
        assert line in lines[: lines.index("@@ before the layers")]
    assert "@@ signature, layer 0 (the same in layer 1)" in lines
    assert "+ k_cache_0: f16[num_pages, 2, blocks, 16, 16]" in lines
    # What stood for input_ids before is read as before: the embedding is not shown as changed.
    assert not any("embedding" in line for line in lines if line[0] in "+-")


def test_types_that_change_are_pairs_of_lines(dump_with_kernels: Dump) -> None:
    lines = of_pass(dump_with_kernels, "flatten-batch")
    start = lines.index("@@ layer 0 (the same in layer 1)") + 1
    assert lines[start : start + 2] == [
        "- lv16: f32[1, n, 64] = vamc.rms_norm(lv3, model.layers.0.input_layernorm.weight, epsilon=1e-06)",
        "+ lv16: f32[n, 64] = vamc.rms_norm(lv3, model.layers.0.input_layernorm.weight, epsilon=1e-06)",
    ]


def test_parameters_that_become_a_tuple(dump_with_kernels: Dump) -> None:
    lines = of_pass(dump_with_kernels, "bundle-parameters")
    assert [line for line in lines if line.startswith("@@")] == [
        "@@ signature",
        "@@ signature, layer 0 (the same in layer 1)",
        "@@ before the layers",
        "@@ layer 0",
        "@@ layer 1",
        "@@ behind the layers",
    ]
    body = lines[lines.index("@@ before the layers") :]
    assert not any(line.startswith("- ") for line in body)
    added = [line for line in body if line.startswith("+ ")]
    assert added != []
    assert all(line.endswith("]") and " = " in line for line in added)


def test_new_kernels(dump_with_kernels: Dump) -> None:
    lines = of_pass(dump_with_kernels, "select-kernels")
    assert "select_rows_64: added" in lines
    assert "+ kernel select_rows_64(x: f32[n, 64], rows: i32[m], out: f32[m, 64]) for select_rows" in lines


def scaled(factor: float) -> Any:
    @T.prim_func(private=True, s_tir=True)
    def kernel(x: T.Buffer((4,), "float32"), y: T.Buffer((4,), "float32")):
        for i in range(4):
            y[i] = x[i] * T.float32(factor)

    return kernel


def calls_of(*kernels: tuple[str, float]) -> Any:
    """A module that calls kernels of these names, which multiply by these factors, one after the other."""
    builder = relax.BlockBuilder()
    value: Any = relax.Var("x", relax.TensorType([4], "float32"))
    with builder.function("main", [value]):
        with builder.dataflow():
            for name, factor in kernels:
                symbol = builder.add_func(scaled(factor), name)
                value = builder.emit(relax.call_tir(symbol, [value], relax.TensorType([4], "float32")), "y")
            output = builder.emit_output(value)
        builder.emit_func_output(output)
    return builder.get()


def test_kernels_with_other_names_are_the_same() -> None:
    assert diff_modules(calls_of(("a", 2), ("b", 3)), calls_of(("b", 2), ("c", 3))) == ()
    assert diff_modules(calls_of(("a", 2), ("b", 3)), calls_of(("b", 3), ("a", 2))) != ()
    # A name that went to another kernel: the call of it is another call.
    changes = diff_modules(calls_of(("a", 2), ("b", 3)), calls_of(("a", 3), ("c", 3)))
    assert "y: f32[4] = kernel a(x)" in changed_lines(changes, "removed")
    assert "y: f32[4] = kernel a(x)" in changed_lines(changes, "added")


def test_a_changed_kernel_is_shown_by_its_text() -> None:
    (change,) = diff_modules(calls_of(("a", 2)), calls_of(("a", 5)))
    assert (change.name, change.status) == ("a", "changed")
    (removed,), (added,) = (changed_lines((change,), kind) for kind in ("removed", "added"))
    assert "T.float32(2.0)" in removed
    assert added == removed.replace("2.0", "5.0")


def test_functions_that_one_module_has() -> None:
    function = function_of(Recipe((("exp", (0,)),), (2,)))
    two = tvm.IRModule({"main": function, "other": function})
    (change,) = diff_modules(module_of(function), two)
    assert (change.name, change.status) == ("other", "added")
    assert "v0: f32[n, 4] = exp(x)" in changed_lines((change,), "added")
    (change,) = diff_modules(two, module_of(function))
    assert (change.name, change.status) == ("other", "removed")


def test_parameters_in_another_order_of_another_type_and_name() -> None:
    def function(*parameters: tuple[str, str]) -> Any:
        made = [relax.Var(name, relax.TensorType([4], dtype)) for name, dtype in parameters]
        builder = relax.BlockBuilder()
        with builder.function("main", made):
            builder.emit_func_output(relax.const(1.0))
        return module_of(builder.get()["main"])

    before = function(("a", "float32"), ("b", "float32"), ("c", "int8"), ("d", "int8"))
    after = function(("b", "float32"), ("a", "float32"), ("c", "int32"), ("e", "int8"))
    changes = diff_modules(before, after)
    assert sorted(changed_lines(changes, "removed")) == ["b: f32[4], parameter 1", "c: i8[4]", "d: i8[4]"]
    assert sorted(changed_lines(changes, "added")) == ["b: f32[4], parameter 0", "c: i32[4]", "e: i8[4]"]


@pytest.mark.parametrize("shown", ["tuple", "purity", "attribute"])
def test_what_the_signature_says_besides_parameters(shown: str) -> None:
    x = relax.Var("x", relax.TensorType([4], "float32"))
    plain = relax.Function([x], relax.SeqExpr([], x), x.ty, True)
    others = {
        "tuple": relax.Function([x], relax.SeqExpr([], relax.Tuple([x])), relax.TupleType([x.ty]), True),
        "purity": relax.Function([x], relax.SeqExpr([], x), x.ty, False),
        "attribute": plain.with_attr("vamc.caches", 2),
    }
    added = {"tuple": "results: a tuple of 1", "purity": "purity: impure", "attribute": "attribute vamc.caches: 2"}
    changes = diff_modules(module_of(plain), module_of(others[shown]))
    assert changed_lines(changes, "added") == [added[shown]]


def layer_lines(layers: list[int], changed: Any) -> list[Line]:
    """For each layer an unchanged line, and an added one of the shape ``changed(layer)``."""
    lines = []
    for layer in layers:
        lines.append(Line("same", f"context {layer}", layer, None))
        lines.append(Line("added", f"added {layer}", layer, changed(layer), (("after", layer),)))
    return lines


@pytest.mark.parametrize(
    ("changed", "repeats"),
    [
        (lambda layer: "a", ["the same in layers 1 to 5"]),
        (lambda layer: "a" if layer != 3 else "b", ["the same in layers 1 and 2, 4 and 5", ""]),
        (lambda layer: "ab"[layer % 2], ["the same in layers 2, 4", "the same in layers 3, 5"]),
        (lambda layer: "a" if layer in (0, 4) else str(layer), ["the same in layer 4", "", "", "", ""]),
    ],
)
def test_layers_that_are_alike_are_shown_once(changed: Any, repeats: list[str]) -> None:
    found = hunks(layer_lines(list(range(6)), changed))
    assert [hunk.repeats for hunk in found] == repeats
    assert found[0].title == "layer 0"
    assert [line.text for line in found[0].lines] == ["context 0", "added 0"]


def test_context_and_gaps() -> None:
    kinds = "-+..-.....+"
    lines = [
        Line({"-": "removed", "+": "added", ".": "same"}[kind], str(index), -1, index)
        for index, kind in enumerate(kinds)
    ]
    (hunk,) = hunks(lines)
    assert hunk.title == "body"
    assert [line.text for line in hunk.lines] == ["0", "1", "2", "3", "4", "5", "…", "9", "10"]
    assert hunks([line for line in lines if line.kind == "same"]) == ()
