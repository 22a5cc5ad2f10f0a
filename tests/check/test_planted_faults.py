"""Passes with one fault each are found by the check, and named with the function and the operator at fault."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import planted_passes as planted
import pytest
from support.checks import checked, tiny_checker, with_pass

from vamc_py.check.check import Checker
from vamc_py.check.results import sentences
from vamc_py.check.smallest import smallest_case
from vamc_py.pipeline.base import Pass

Checkers = Callable[[str, str], Checker]

# (fault, the pass that it stands behind or replaces, model, function, operator, layer)
FAULTS: list[tuple[Pass, str, str, str, str, int | None]] = [
    (planted.DroppedBias(), "raise-linear", "qwen2", "main", "vamc.linear", 0),
    (planted.OtherEpsilon(), "raise-rms-norm", "qwen3", "main", "vamc.rms_norm", 0),
    (planted.UpIsGate(), "raise-swiglu", "qwen3", "main", "vamc.swiglu", 0),
    (planted.SwappedHalves(), "raise-rotary", "qwen3", "main", "vamc.rotary", 0),
    (planted.MaskIsLeftOut(), "raise-attention", "qwen2", "main", "vamc.attention", 0),
    (planted.HeadsInterleaved(), "raise-attention", "qwen3", "main", "vamc.attention", 0),
    (planted.PositionsOffByOne(), "kv-cache-layout", "qwen3", "step", "vamc.cached_attention", 0),
    (planted.OtherSlot(), "kv-cache-layout", "qwen2", "step", "vamc.cached_attention", 0),
    (planted.ValuesAreKeys(), "merge-linear", "qwen3", "step", "vamc.linear", 0),
    (planted.OtherResidual(), "fuse-residual", "qwen2", "step", "vamc.linear", 0),
    (planted.ScalesOffByOne(), "quantize-int8", "qwen2", "step", "vamc.embedding", None),
    (planted.UnderOtherNames(), "raise-rms-norm", "qwen2", "main", "multiply", None),
    (planted.ScalesOffByOne(only="1.self_attn.o_proj"), "quantize-int8", "qwen3", "step", "vamc.linear", 1),
]


@pytest.fixture(scope="module")
def checkers(tmp_path_factory: pytest.TempPathFactory) -> Checkers:
    """A checker for each model, with its trace and torch's logits."""

    @cache
    def make(architecture: str, dtype: str) -> Checker:
        folder = tmp_path_factory.mktemp("checkpoint") / "model"
        return tiny_checker(folder, architecture=architecture, dtype=dtype, scale=0.2)

    return make


@pytest.mark.parametrize(
    ("one", "neighbour", "model", "function", "operator", "layer"), FAULTS, ids=[type(f[0]).__name__ for f in FAULTS]
)
def test_a_fault_is_found_and_named(
    checkers: Checkers, one: Pass, neighbour: str, model: str, function: str, operator: str, layer: int | None
) -> None:
    checker = checkers(model, "int8")
    genuine = checker.pipeline
    checker.pipeline = with_pass(genuine, one, neighbour)
    try:
        result, faulty = checked(checker)
    finally:
        checker.pipeline = genuine
    finding = result.finding
    assert finding is not None
    assert (finding.label, finding.origin, finding.function) == (one.name, "test", function)
    assert finding.place is not None
    assert (finding.place.operator, finding.place.layer) == (operator, layer)
    assert faulty is not None
    assert faulty.run.planned.one is one
    text = "\n".join(sentences(finding))
    assert all(words in text for words in (one.name, function, operator, finding.place.binding, finding.place.where))


def test_a_module_that_does_not_run_is_a_fault_of_its_pass(checkers: Checkers) -> None:
    checker = checkers("qwen3", "int8")
    genuine = checker.pipeline
    checker.pipeline = with_pass(genuine, planted.Unrunnable(), "raise-swiglu")
    try:
        result, faulty = checked(checker, 1)
    finally:
        checker.pipeline = genuine
    assert result.finding is not None
    assert result.stages[-1].label == "raise-swiglu"
    [sentence] = sentences(result.finding)
    assert sentence.startswith("the pass unrunnable (test) is wrong: main does not run after it: lv")
    assert "= relax.call_dps_packed cannot be run: " in sentence
    assert faulty is not None
    smallest = smallest_case(faulty, checker.context)
    assert (smallest.operators, smallest.errors) == (1, {})


def test_an_import_that_is_wrong(checkers: Checkers) -> None:
    checker = checkers("qwen2", "int8")
    cut, scenario, reference = checker._prepared(1)
    checker._made[1] = cut, scenario, {row: -logits for row, logits in reference.items()}
    try:
        result, faulty = checked(checker, 1)
    finally:
        checker._made[1] = cut, scenario, reference
    assert faulty is None
    assert result.finding is not None
    [sentence] = sentences(result.finding)
    assert sentence.startswith("the import is wrong: the logits of main differ by 2.0e+00 from those of torch")
