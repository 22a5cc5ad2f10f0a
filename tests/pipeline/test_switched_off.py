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
from vamc_py.passes.quantize_activations import QuantizeActivations
from vamc_py.pipeline.base import Pass
from vamc_py.pipeline.default import Numbers, default_pipeline
from vamc_py.pipeline.pipeline_check import pipeline_faults
from vamc_py.pipeline.program import Program
from vamc_py.pipeline.runner import labels
from vamc_py.schedules.llvm.instruction_set import AVX512_FEATURES
from vamc_py.target.description import REQUIRED

MODEL = model_config(architecture="qwen3", layers=1, hidden=32, intermediate=32, heads=2, kv_heads=1, head_dim=16)
WEIGHTS = random_weights(ModelConfig.from_hf(MODEL), scale=0.3)
# By what is built: int8 weights with activations of 16 bits, and with activations that the prompt's nine tokens have in
# int8, too (attention multiplies in float32 in both).
BUILDS = ("fp32", "int8", "int8_g32")
# Without these nothing compiles, or the weights would not have the type that the configuration asks for.
REFUSED = {
    "fp32": {"flatten-batch", "lower-reference", "bundle-parameters"},
    "int8": {"flatten-batch", "lower-reference", "bundle-parameters", "raise-linear"},
    "int8_g32": {"flatten-batch", "lower-reference", "bundle-parameters", "raise-linear"},
}
# Of the largest logit. int8 builds keep keys and values in 16 bits; an int8 activation that lies between two values may
# be rounded the other way.
CLOSE = {"fp32": 2e-6, "int8": 3e-4, "int8_g32": 3e-3}
# Other weights or activations than before keep their bits: the difference is what rounding them costs.
OTHER_ROUNDING = {
    "fp32": set(),
    "int8": {"raise-embedding", "quantize-int8"},
    "int8_g32": {"raise-embedding", "quantize-int8", "quantize-activations"},
}
WITHOUT_BF16 = (*REQUIRED, *AVX512_FEATURES, "avx512vnni")
Logits = np.ndarray[Any, Any]


def without(build: str, *left_out: str) -> list[Pass]:
    """The default passes but for those with these labels."""
    activations = QuantizeActivations("int8_g32" if build == "int8_g32" else "int16")
    passes = default_pipeline(Numbers(dtype_of(build), activations=activations))
    names = labels([one.name for one in passes])
    assert set(left_out) <= set(names)
    return [one for name, one in zip(names, passes, strict=True) if name not in left_out]


def dtype_of(build: str) -> str:
    return build.partition("_")[0]


LABELS = {build: labels([one.name for one in without(build)]) for build in BUILDS}


def faults(passes: Sequence[Pass]) -> list[str]:
    return [fault.message for fault in pipeline_faults(passes, "llvm", whole=True)]


def apply(traced: Program, build: str, passes: Sequence[Pass]) -> Program:
    """Lowering by reference is left to the compilation of the test."""
    later = {"lower-reference", "bundle-parameters"}
    has = context_for().target.features
    features = [feature for feature in WITHOUT_BF16 if feature in has]
    context = context_for(dtype_of(build), prefill=16, context=32, features=features)
    for one in passes:
        traced = traced if one.name in later else one.apply(traced, context)
    return traced


@pytest.fixture(scope="module")
def traced() -> Program:
    return traced_program(MODEL)


@pytest.fixture(scope="module")
def logits(traced: Program) -> Mapping[tuple[str, str], Logits]:
    """By build and the label of the pass that is off, "" for none; those that are refused are left out."""
    programs = {
        (build, label): apply(traced, build, passes)
        for build in BUILDS
        for label in ("", *LABELS[build])
        if not faults(passes := without(build, *filter(None, [label])))
    }
    keys = {case: structural_hash(program.module) for case, program in programs.items()}
    different = {keys[case]: program for case, program in programs.items()}  # many passes change nothing here
    functions = compile_together(list(different.values()))
    known: dict[int, Logits] = {}
    for (key, program), function in zip(different.items(), functions, strict=True):
        step = StepModel(program, WEIGHTS, blocks=2, compiled=function)
        known[key] = np.concatenate([step(range(3, 12), range(9)), step([5], [9])])  # a prompt, and one token more
    return {case: known[key] for case, key in keys.items()}


@pytest.mark.parametrize(("build", "label"), [(build, label) for build in BUILDS for label in LABELS[build]])
def test_refused_or_right(logits: Mapping[tuple[str, str], Logits], build: str, label: str) -> None:
    if label in REFUSED[build]:
        assert faults(without(build, label)) != []
        return
    expected, got = logits[build, ""], logits[build, label]
    worst = np.abs(got - expected).max() / np.abs(expected).max()
    assert worst < (0.05 if label in OTHER_ROUNDING[build] else CLOSE[build])


def test_int8_activations_show(logits: Mapping[tuple[str, str], Logits]) -> None:
    exact, rounded = logits["int8", ""], logits["int8_g32", ""]
    np.testing.assert_array_equal(logits["int8_g32", "quantize-activations"], exact)
    assert np.abs(rounded - exact).max() > 3 * CLOSE["int8_g32"] * np.abs(exact).max()


def test_without_both_kv_cache_passes_nothing_makes_the_step(traced: Program) -> None:
    passes = without("fp32", "kv-cache-layout", "dense-kv-cache")
    assert faults(passes) == []  # a pass of another package might make it
    with pytest.raises(UserError, match="nothing has made one of main"):
        apply(traced, "fp32", passes)
