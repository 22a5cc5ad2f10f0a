"""Graphs of export-onnx, compiled, give the logits of the artifact that the checkpoint itself compiles to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.checkpoints import write_checkpoint
from support.end_to_end import compile_checkpoint, configuration, relative_error

from vamc_py.artifact.verify import read_manifest
from vamc_py.onnx_export.export import export
from vamc_py.runtime.executor import Executor

PROMPT = np.random.default_rng(5).integers(0, 288, size=45).tolist()


def step_logits(folder: Path) -> np.ndarray[Any, Any]:
    """A prompt in two chunks, then two tokens one by one: the logits behind each."""
    executor = Executor.load(folder)
    rows = [executor.feed(PROMPT[:17], slot=0, start=0), executor.feed(PROMPT[17:43], slot=0, start=17)]
    rows += [executor.feed(PROMPT[at : at + 1], slot=0, start=at) for at in (43, 44)]
    return np.stack(rows)


@pytest.mark.parametrize(
    ("architecture", "dynamic", "graph", "options"),
    [
        (
            "qwen2",
            False,
            "",
            {"tied": False, "heads": 6, "kv_heads": 2, "hidden": 96, "layers": 1},
        ),  # iter1 of the folder
        ("qwen3", True, "", {"head_dim": 32, "layers": 1}),
        ("qwen3", False, "iter0.onnx", {}),
    ],
)
def test_float_graphs(tmp_path: Path, architecture: str, dynamic: bool, graph: str, options: dict[str, Any]) -> None:
    """The lengths to compile for need not be those of the graph."""
    write_checkpoint(tmp_path / "model", architecture=architecture, scale=0.3, **options)
    graphs = export(configuration(tmp_path / "model", tmp_path, prefill=16, context=64), dynamic=dynamic)
    ours = compile_checkpoint(tmp_path / "model", tmp_path / "ours")
    theirs = compile_checkpoint(graphs / graph, tmp_path / "theirs", kind="onnx")
    assert theirs.notes == ()
    expected = step_logits(ours.folder)
    assert expected.std() > 0.5  # the comparison is about something
    assert relative_error(step_logits(theirs.folder), expected) < 1e-6


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
def test_int8_graphs_keep_their_integers(tmp_path: Path, architecture: str) -> None:
    write_checkpoint(tmp_path / "model", architecture=architecture, scale=0.3, layers=1)
    options: dict[str, Any] = {"dtype": "int8", "overrides": ["frontend.quantize.activation=int16"]}
    graphs = export(configuration(tmp_path / "model", tmp_path, **options))
    options["overrides"].append("frontend.quantize.lm_head=false")
    ours = compile_checkpoint(tmp_path / "model", tmp_path / "ours", **options)
    theirs = compile_checkpoint(graphs, tmp_path / "theirs", kind="onnx", **options)
    assert theirs.notes == ()
    parameters = [[(one.name, one.dtype) for one in read_manifest(m.folder).parameters] for m in (ours, theirs)]
    assert sorted(parameters[0]) == sorted(parameters[1])
    assert relative_error(step_logits(theirs.folder), step_logits(ours.folder)) < 1e-5
