"""The gate's search: what it widens, in how many attempts, and when it gives up."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vamc_py.errors import UserError
from vamc_py.evaluation.gate import Attempt, Gate, NotAcceptedError, Rule, Widening, rules_of, sentences


class Compiler:
    """Stands in for compiling and measuring: every weight adds to the perplexity of 10 what its type costs."""

    def __init__(self, costs: dict[str, dict[str, float]], default: str) -> None:
        self.costs = costs  # of each weight, by its type
        self.default = default
        self.compiled: list[tuple[Rule, ...]] = []
        self.discarded: list[Path] = []
        self.said: list[str] = []

    def compile_with(self, rules: tuple[Rule, ...]) -> Path:
        assert rules not in self.compiled, "compiled twice"
        self.compiled.append(rules)
        return Path(str(len(self.compiled) - 1))

    def measure(self, folder: Path) -> float:
        types = {rule.match: rule.type for rule in self.compiled[int(str(folder))]}
        return 10 + sum(cost[types.get(name, self.default)] for name, cost in self.costs.items())

    def search(self, ranked: list[Widening], increase: float) -> Attempt:
        return Gate(
            self.compile_with, self.measure, 10.0, lambda: ranked, increase, self.discarded.append, self.said.append
        ).search()


def widening(name: str, damage: float, kind: str = "w8a16", wider: str = "fp16") -> Widening:
    return Widening((f"{name}.weight",), kind, wider, damage)


def test_a_model_within_the_limit_is_taken_as_it_is() -> None:
    compiler = Compiler({"a": {"w8a16": 0.1}}, "w8a16")
    found = compiler.search([], 0.01)
    assert (found.widened, found.folder, compiler.discarded) == ((), Path("0"), [])
    assert compiler.said == ["perplexity 10.1, +1.00 % against the float model's 10, +1 % allowed: accepted"]


def test_one_ruined_layer_is_the_only_one_widened() -> None:
    compiler = Compiler({"a": {"w8a16": 0.01, "fp16": 0}, "b": {"w8a16": 5, "fp16": 0}}, "w8a16")
    found = compiler.search([widening("b", 0.04), widening("a", 0.0001)], 0.01)
    assert compiler.compiled == [(), (Rule("b", "fp16"),)]
    assert (found.folder, compiler.discarded) == (Path("1"), [Path("0")])
    assert sentences(found.widened) == ["b: fp16 in place of w8a16, which changes the weights by 20.00% of their norm"]


@given(count=st.integers(1, 40), needed=st.data())
def test_the_fewest_are_widened(count: int, needed: st.DataObject) -> None:
    """Weights of one cost: the limit asks for exactly ``wanted`` of them."""
    wanted = needed.draw(st.integers(1, count))
    compiler = Compiler({f"w{i}": {"w8a16": 1.0, "fp16": 0.0} for i in range(count)}, "w8a16")
    found = compiler.search([widening(f"w{i}", 1 / (i + 1)) for i in range(count)], (count - wanted + 0.5) / 10)
    assert [one.tensors for one in found.widened] == [(f"w{i}.weight",) for i in range(wanted)]
    kept = set(range(len(compiler.compiled))) - {int(str(folder)) for folder in compiler.discarded}
    assert kept == {int(str(found.folder))}
    assert len(compiler.compiled) == len(compiler.said) <= 2 + 2 * math.ceil(math.log2(count + 1))


def test_a_weight_may_be_widened_twice() -> None:
    costs = {"a": {"w4a16": 9, "w8a16": 8, "fp16": 0.0}, "b": {"w4a16": 0.05, "w8a16": 0.01, "fp16": 0.0}}
    ranked = [
        widening("a", 0.5, "w4a16", "w8a16"),
        widening("a", 0.4),
        widening("b", 0.1, "w4a16", "w8a16"),
        widening("b", 0.01),
    ]
    compiler = Compiler(costs, "w4a16")
    found = compiler.search(ranked, 0.01)
    assert compiler.compiled == [(), (Rule("a", "w8a16"),), (Rule("a", "fp16"),)]
    assert sentences(found.widened) == ["a: fp16 in place of w4a16, which changes the weights by 70.71% of their norm"]


def test_groups_become_a_rule_for_each_tensor() -> None:
    group = Widening(("x.q_proj.weight", "x.k_proj.weight"), "w4a16", "w8a16", 0.01)
    assert rules_of([group]) == (Rule("x.q_proj", "w8a16"), Rule("x.k_proj", "w8a16"))
    assert sentences([group])[0].startswith("x.q_proj, x.k_proj: w8a16 in place of w4a16")


@pytest.mark.parametrize("cost", [3.0, math.inf, math.nan])
def test_what_no_width_repairs_is_refused(cost: float) -> None:
    costs = {f"w{i}": {"w8a16": 1.0, "fp16": cost} for i in range(3)}
    compiler = Compiler(costs, "w8a16")
    with pytest.raises(NotAcceptedError, match="with all 3 widenings done") as refused:
        compiler.search([widening(f"w{i}", 0.1) for i in range(3)], 0.01)
    assert isinstance(refused.value, UserError)
    assert "look at the activations and the KV cache, or allow more" in str(refused.value)
    assert len(compiler.compiled) == 4  # as it is, 1, 2 and all
    assert len(compiler.discarded) == 4


def test_without_anything_to_widen_it_says_so() -> None:
    with pytest.raises(NotAcceptedError, match="there is no weight that could be wider"):
        Compiler({"a": {"w8a16": 1.0}}, "w8a16").search([], 0.01)
