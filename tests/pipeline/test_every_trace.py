"""Every way of writing Qwen ends in the same few operators, and step computes what our torch model computes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.checkpoints import model_config
from support.patched_checkpoint import add_patched_files, patched_config
from support.relax_modules import StepModel, apply_passes, operators_in
from support.run_torch import Step, built_in, random_step, random_weights
from support.stock_trace import trace_stock

from vamc_py.frontend.import_relax import import_traced
from vamc_py.frontend.model_config import ModelConfig
from vamc_py.frontend.remote_code import trace_checkpoint_code
from vamc_py.frontend.trace import Traced, trace
from vamc_py.pipeline.default import Numbers, default_pipeline

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
PASSES = default_pipeline(Numbers("fp32", lm_head=False))
FUSED = tuple(one for one in PASSES if one.stage != "lower")
FUSING = ("merge-linear", "fuse-swiglu", "fuse-residual", "fuse-prologue", "fuse-attention", "select-rows-early")
UNFUSED = tuple(one for one in FUSED if one.name not in FUSING)


def own(folder: Path, *, insert_slice: bool = False, **keys: Any) -> Traced:
    return trace(ModelConfig.from_hf(model_config(**keys)), insert_slice=insert_slice)


def patched(folder: Path, *, insert_slice: bool = True, **keys: Any) -> Traced:
    config = patched_config(model_config(**keys), insert_slice=insert_slice)
    add_patched_files(folder, config)
    return trace_checkpoint_code(folder, config, context=64)


def stock(folder: Path, **keys: Any) -> Traced:
    return trace_stock(model_config(**keys))


KINDS: dict[str, tuple[Callable[..., Traced], dict[str, Any]]] = {
    "ours, qwen2": (own, {"architecture": "qwen2", "tied": False, "kv_heads": 4}),
    "ours, qwen3, slice, yarn": (
        own,
        {"architecture": "qwen3", "insert_slice": True, "rope_scaling": YARN, "max_positions": 256, "layers": 2},
    ),
    "patched, qwen2, slice": (patched, {"architecture": "qwen2"}),
    "patched, qwen3": (patched, {"architecture": "qwen3", "insert_slice": False}),
    "transformers, qwen2": (stock, {"architecture": "qwen2", "kv_heads": 4}),
    "transformers, qwen3, yarn": (stock, {"architecture": "qwen3", "rope_scaling": YARN, "max_positions": 256}),
}


COMPILED = ("ours, qwen3, slice, yarn", "patched, qwen2, slice", "transformers, qwen3, yarn")


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Traced]:
    """Each kind is traced once."""

    @cache
    def traced(kind: str) -> Traced:
        make, keys = KINDS[kind]
        return make(tmp_path_factory.mktemp("checkpoint"), **{"layers": 1, **keys})

    return traced


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_dialect_is_left(traces: Callable[[str], Traced], kind: str) -> None:
    traced = traces(kind)
    program = apply_passes(import_traced(traced), *UNFUSED)
    layers, qwen3 = traced.model.layers, traced.model.architecture == "qwen3"
    counts = operators_in(program)
    angles = counts.pop("vamc.rotary_angles", 0)
    assert angles == (0 if traced.mask == "ones" else 1)  # the patched files look rotations up in tables
    assert counts.pop("vamc.embedding") == 1 + (2 * layers if traced.mask == "ones" else 0)
    assert counts.pop("reshape") <= 5 * layers
    assert counts == {
        "vamc.linear": 7 * layers + 1,
        "vamc.rms_norm": (4 if qwen3 else 2) * layers + 1,
        "vamc.rotary": 2 * layers,
        "vamc.cached_attention": layers,
        "vamc.swiglu": layers,
        "vamc.select_rows": 1,
        "add": 2 * layers,
    }
    assert program.notes == ()


@pytest.mark.parametrize("kind", COMPILED)
def test_step_computes_what_torch_computes(traces: Callable[[str], Traced], kind: str) -> None:
    """The fused operators too, whose references are the unfused ones."""
    traced = traces(kind)
    program = apply_passes(import_traced(traced), *FUSED)
    assert all(name.startswith("vamc.") or name in ("reshape", "add", "split") for name in operators_in(program))
    weights = random_weights(traced.model)
    whole = random_step(traced.model, 12, 0)
    expected = torch_logits(traced, weights, whole)
    step = StepModel(program, weights, pages=[[1, 0]], blocks=1)
    tokens = whole.input_ids[0].tolist()
    for first, last in ((0, 7), (7, 8), (8, 12)):
        logits = step(tokens[first:last], range(first, last))
        np.testing.assert_allclose(logits, expected[first:last], rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@torch.no_grad()
def torch_logits(traced: Traced, weights: dict[str, torch.Tensor], step: Step) -> np.ndarray[Any, Any]:
    return built_in(traced.model, weights)(**step.arguments("additive"))[0][0].numpy()
