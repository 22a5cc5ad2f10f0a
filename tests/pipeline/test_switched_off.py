"""Each pass of the default pipeline switched off: the list is refused, or what it compiles computes the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from support.checkpoints import model_config
from support.compile_together import compile_together
from support.relax_modules import StepModel, context_for, traced_program
from support.run_torch import random_weights
from tvm_ffi import structural_hash

from vamc_py.errors import UserError
from vamc_py.frontend.model_config import ModelConfig
from vamc_py.pipeline.base import Pass
from vamc_py.pipeline.default import default_pipeline
from vamc_py.pipeline.pipeline_check import pipeline_faults
from vamc_py.pipeline.program import Program
from vamc_py.pipeline.runner import labels

MODEL = model_config(architecture="qwen3", layers=1, hidden=32, intermediate=32, heads=2, kv_heads=1, head_dim=16)
WEIGHTS = random_weights(ModelConfig.from_hf(MODEL), scale=0.3)
DTYPES = ("fp32", "int8")
# Without these nothing compiles, or the weights would not have the type that the configuration asks for.
REFUSED = {
    "fp32": {"flatten-batch", "lower-reference", "bundle-parameters"},
    "int8": {"flatten-batch", "lower-reference", "bundle-parameters", "raise-linear"},
}
CLOSE = {"fp32": 2e-6, "int8": 3e-4}  # of the largest logit; int8 builds keep keys and values in 16 bits
# Other weights than before stay in floating point: the difference is what int8 costs.
OTHER_WEIGHTS = {"raise-embedding", "quantize-int8"}
Logits = np.ndarray[Any, Any]


def without(dtype: str, *left_out: str) -> list[Pass]:
    """The default passes but for those with these labels."""
    passes = default_pipeline(dtype, quantize_lm_head=True)
    names = labels([one.name for one in passes])
    assert set(left_out) <= set(names)
    return [one for name, one in zip(names, passes, strict=True) if name not in left_out]


LABELS = {dtype: labels([one.name for one in without(dtype)]) for dtype in DTYPES}


def faults(passes: Sequence[Pass]) -> list[str]:
    return [fault.message for fault in pipeline_faults(passes, "llvm", whole=True)]


def apply(traced: Program, dtype: str, passes: Sequence[Pass]) -> Program:
    """Lowering by reference is left to the compilation of the test."""
    later = {"lower-reference", "bundle-parameters"}
    context = context_for(dtype, prefill=16, context=32)
    for one in passes:
        traced = traced if one.name in later else one.apply(traced, context)
    return traced


@pytest.fixture(scope="module")
def traced() -> Program:
    return traced_program(MODEL)


@pytest.fixture(scope="module")
def logits(traced: Program) -> Mapping[tuple[str, str], Logits]:
    """By dtype and the label of the pass that is off, "" for none; those that are refused are left out."""
    programs = {
        (dtype, label): apply(traced, dtype, passes)
        for dtype in DTYPES
        for label in ("", *LABELS[dtype])
        if not faults(passes := without(dtype, *filter(None, [label])))
    }
    keys = {case: structural_hash(program.module) for case, program in programs.items()}
    different = {keys[case]: program for case, program in programs.items()}  # many passes change nothing here
    functions = compile_together(list(different.values()))
    known: dict[int, Logits] = {}
    for (key, program), function in zip(different.items(), functions, strict=True):
        step = StepModel(program, WEIGHTS, blocks=2, compiled=function)
        known[key] = np.concatenate([step(range(3, 12), range(9)), step([5], [9])])  # a prompt, and one token more
    return {case: known[key] for case, key in keys.items()}


@pytest.mark.parametrize(("dtype", "label"), [(dtype, label) for dtype in DTYPES for label in LABELS[dtype]])
def test_refused_or_right(logits: Mapping[tuple[str, str], Logits], dtype: str, label: str) -> None:
    if label in REFUSED[dtype]:
        assert faults(without(dtype, label)) != []
        return
    expected, got = logits[dtype, ""], logits[dtype, label]
    worst = np.abs(got - expected).max() / np.abs(expected).max()
    assert worst < (0.05 if dtype == "int8" and label in OTHER_WEIGHTS else CLOSE[dtype])


def test_without_both_kv_cache_passes_nothing_makes_the_step(traced: Program) -> None:
    passes = without("fp32", "kv-cache-layout", "dense-kv-cache")
    assert faults(passes) == []  # a pass of another package might make it
    with pytest.raises(UserError, match="nothing has made one of main"):
        apply(traced, "fp32", passes)
