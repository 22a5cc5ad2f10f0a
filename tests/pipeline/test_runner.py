"""A pass list is checked before it runs, and runs in its order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
from support.relax_modules import context_for
from tvm import IRModule

from vamc_py.passes.simplify import Simplify
from vamc_py.pipeline.base import Context, Pass, Stage
from vamc_py.pipeline.default import Numbers, default_pipeline
from vamc_py.pipeline.program import Program
from vamc_py.pipeline.runner import check_pipeline, planned, run_passes
from vamc_py.weights.plan import ParameterPlan


@dataclass(frozen=True)
class Named(Pass):
    """Notes that it ran."""

    def apply(self, program: Program, context: Context) -> Program:
        return program.note(f"{self.name} for {context.prefill}")


@dataclass(frozen=True)
class First(Named):
    name: ClassVar[str] = "first"
    stage: ClassVar[Stage] = "raise"


@dataclass(frozen=True)
class Second(Named):
    name: ClassVar[str] = "second"
    stage: ClassVar[Stage] = "rewrite"
    requires: ClassVar[tuple[str, ...]] = ("first",)


@dataclass(frozen=True)
class Third(Named):
    name: ClassVar[str] = "third"
    stage: ClassVar[Stage] = "lower"
    targets: ClassVar[tuple[str, ...]] = ("llvm",)


EMPTY = Program(IRModule(), ParameterPlan())


def test_runs_in_order() -> None:
    program = run_passes(EMPTY, planned([First(), Second(), Third()]), context_for(prefill=7))
    assert program.notes == ("first for 7", "second for 7", "third for 7")
    assert EMPTY.notes == ()


@pytest.mark.parametrize(
    ("passes", "target", "words"),
    [
        ([Second()], "llvm", "the pass second needs first to run before it"),
        ([Second(), First()], "llvm", "the pass second needs first to run before it"),
        ([First(), Third()], "cuda", "the pass third does not serve the target cuda"),
        ([First(), Third(), Second()], "llvm", "do not keep the order of the stages"),
        ([First(), Third(), First()], "llvm", "do not keep the order of the stages"),
    ],
)
def test_refuses(passes: list[Pass], target: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_pipeline(passes, target)


def test_refuses_before_it_runs_anything() -> None:
    @dataclass(frozen=True)
    class Exploding(First):
        def apply(self, program: Program, context: Context) -> Program:
            raise AssertionError("ran")

    with pytest.raises(ValueError, match="order of the stages"):
        run_passes(EMPTY, planned([Exploding(), Third(), First()]), context_for())


def test_simplify_may_run_anywhere() -> None:
    check_pipeline([First(), Second(), Simplify(), Third(), Simplify()], "llvm")


@pytest.mark.parametrize("dtype", ["int8", "fp16", "bf16", "fp32"])
@pytest.mark.parametrize("quantize_lm_head", [True, False])
def test_the_default_passes_can_run(dtype: str, quantize_lm_head: bool) -> None:
    passes = default_pipeline(Numbers(dtype, lm_head=quantize_lm_head))
    check_pipeline(passes, "llvm")
    names = {one.name for one in passes}
    assert ("quantize-int8" in names) == (dtype == "int8")
    assert ("cast-weights" in names) == (dtype in ("fp16", "bf16") or (dtype == "int8" and not quantize_lm_head))
