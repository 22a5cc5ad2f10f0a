"""The parameter plan as JSON: every plan comes back equal, and foreign JSON is refused before anything of it runs."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.relax_modules import context_for, program_of
from tvm.script import ir as I
from tvm.script import relax as R

from vamc_py.errors import UserError
from vamc_py.inspect.dump import open_dump, read_gzip
from vamc_py.inspect.dump_writer import DumpWriter
from vamc_py.inspect.plan_diff import recipe_text
from vamc_py.inspect.plan_json import plan_from_json, plan_to_json
from vamc_py.pipeline.registry import load_pass_file
from vamc_py.pipeline.runner import planned, run_passes
from vamc_py.schedules.llvm.select import PackPanels
from vamc_py.weights.plan import (
    Array,
    Cast,
    MeanRotated,
    ParameterPlan,
    QuantizeGroups,
    QuantizeRows,
    Recipe,
    Rows,
    SelectColumns,
    Step,
)

PASS_FILE = '''\
"""A pass with a step of its own."""

from dataclasses import dataclass
from typing import ClassVar

from vamc_py.pipeline.base import Pass


@dataclass(frozen=True)
class Halve:
    by: float = 0.5
    rows_multiple: int = 1

    def apply(self, block):
        return block * self.by


@dataclass(frozen=True)
class HalveWeights(Pass):
    """Halves."""

    name: ClassVar[str] = "halve-weights"
    stage: ClassVar[str] = "rewrite"

    def apply(self, program, context):
        recipes = {name: recipe.then(Halve(0.25)) for name, recipe in program.plan.recipes.items()}
        return program.with_function(program.function, plan=program.plan.with_recipes(recipes))
'''


@dataclass(frozen=True)
class Outer:
    """A class that holds a step's."""

    @dataclass(frozen=True)
    class Nested:
        """A step with all that a field may be."""

        table: tuple[tuple[int, ...], ...] = ((1, 2), ())
        name: str | None = None
        rows_multiple: int = 1

        def apply(self, block: Array) -> Array:
            return block


@dataclass(frozen=True)
class WithArray:
    values: Any
    rows_multiple: int = 1

    def apply(self, block: Array) -> Array:
        return block


def back(plan: ParameterPlan) -> ParameterPlan:
    return plan_from_json(json.loads(json.dumps(plan_to_json(plan))))


def steps() -> st.SearchStrategy[Step]:
    rows = st.integers(1, 64)
    return st.one_of(
        st.builds(Cast, st.sampled_from(["float32", "bfloat16"]), rows),
        st.builds(QuantizeRows, st.sampled_from(["values", "scale"]), rows),
        st.builds(
            QuantizeGroups,
            st.sampled_from(["values", "scale", "zero"]),
            st.just("int4"),
            st.sampled_from([None, 32]),
            st.booleans(),
            st.just("float16"),
        ),
        st.builds(MeanRotated, st.lists(st.floats(0, 1), max_size=3).map(tuple), st.just(1.0), rows),
        st.builds(PackPanels),
        st.builds(SelectColumns, st.integers(0, 9), st.integers(9, 99), st.integers(0, 9)),
        st.builds(Outer.Nested, st.lists(st.lists(st.integers()).map(tuple)).map(tuple), st.none() | st.text()),
    )


def rows() -> st.SearchStrategy[tuple[Rows, ...]]:
    numbers = st.integers(0, 99)
    one = st.builds(lambda start, count, zeros: Rows(start, start + count, zeros), numbers, numbers, numbers)
    return st.lists(one, max_size=3).map(tuple)


@given(
    st.dictionaries(
        st.text(),
        st.builds(Recipe, st.lists(st.text()).map(tuple), st.lists(steps(), max_size=3).map(tuple), st.none() | rows()),
    )
)
def test_every_plan_comes_back_equal_and_in_order(recipes: dict[str, Recipe]) -> None:
    assert list(back(ParameterPlan(recipes)).recipes.items()) == list(recipes.items())


def plan_of(step: Any) -> ParameterPlan:
    return ParameterPlan({"weight": Recipe(("weight",), (step,))})


def test_a_step_is_named_by_its_class() -> None:
    [step] = plan_to_json(plan_of(Cast("float32")))["weight"]["steps"]
    assert step == {"step": "vamc_py.weights.plan:Cast", "fields": {"dtype": "float32", "rows_multiple": 1}}


def test_steps_that_cannot_be_read_back_are_refused() -> None:
    @dataclass(frozen=True)
    class Local:
        rows_multiple: int = 1

    with pytest.raises(UserError, match=r"Local of the parameter plan is no dataclass of a module; make it a frozen"):
        plan_to_json(plan_of(Local()))
    with pytest.raises(UserError, match=r"WithArray of the parameter plan has values = array"):
        plan_to_json(plan_of(WithArray(np.zeros(2))))
    with pytest.raises(UserError, match=r"has values = \[1\]"):  # a list would come back as a tuple
        plan_to_json(plan_of(WithArray([1])))


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("no_such_package.steps:Round", "which is not here; install the package"),
        ("vamc_py.weights.plan:NoSuchStep", "which is not here"),
        ("os:system", "names os:system as a step, which it is not"),
        ("vamc_py.weights.plan:Recipe", "as a step, which it is not"),
        ("without a module", "which is not here"),
    ],
)
def test_other_names_than_steps_are_refused(reference: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan_from_json({"weight": {"sources": [], "steps": [{"step": reference, "fields": {}}]}})


@pytest.mark.parametrize("rows", [[[0]], [[3, 1, 0]], [["a", 1, 0]], 7, [[0, 1, 2, 3]]])
def test_other_rows_are_refused(rows: Any) -> None:
    with pytest.raises(UserError, match="no parameter plan as vamc-py writes it"):
        plan_from_json({"weight": {"sources": ["a"], "rows": rows, "steps": []}})


@pytest.mark.parametrize(
    "step", [{}, {"step": "vamc_py.weights.plan:Cast", "fields": {"no_such": 1}}, {"step": 1}, "cast", None]
)
def test_other_json_is_refused(step: Any) -> None:
    with pytest.raises(UserError, match="no parameter plan as vamc-py writes it"):
        plan_from_json({"weight": {"sources": [], "steps": [step]}})


@I.ir_module
class Model:
    @R.function
    def step(x: R.Tensor((4, 8), "float32"), weight: R.Tensor((8, 8), "float32")):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            y = R.matmul(x, weight)
            R.output(y)
        return y


def test_a_step_of_a_pass_file_is_found_by_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("halve.py").write_text(PASS_FILE)
    found = load_pass_file("halve.py:HalveWeights")
    program = run_passes(
        program_of(Model),
        planned([found.kind()], found.origin),
        context_for(),
        [DumpWriter(tmp_path, None, text=False)],
    )
    dump = open_dump(tmp_path)
    stage = dump.find("last")
    [_, step] = json.loads(read_gzip(tmp_path / stage.plan))["weight"]["steps"]
    assert step == {"step": "Halve", "pass": "halve.py:HalveWeights", "fields": {"by": 0.25, "rows_multiple": 1}}
    assert dump.plan(stage) == program.plan  # with the class that ran, not that of the file loaded again
    monkeypatch.delitem(sys.modules, found.kind.__module__)
    [_, loaded] = dump.plan(stage)["weight"].steps
    assert loaded.apply(np.float32([8])) == np.float32([2])
    monkeypatch.delitem(sys.modules, type(loaded).__module__)
    Path("halve.py").unlink()
    with pytest.raises(UserError, match=r"plan\.json\.gz: halve\.py: no such file"):
        dump.plan(stage)


def test_a_recipe_in_a_line() -> None:
    recipe = Recipe(("q", "k"), (Cast("float32"), SelectColumns(0, 8))).choosing(Rows(0, 4, 2), Rows(9, 9, 1))
    assert recipe_text(recipe) == (
        "q above k, rows 0:4 above 2 of zeros above 1 of zeros, Cast(float32), SelectColumns(0, 8)"
    )
    assert plan_to_json(ParameterPlan({"w": recipe}))["w"]["rows"] == [[0, 4, 2], [9, 9, 1]]
    assert "rows" not in plan_to_json(plan_of(Cast("float32")))["weight"]
