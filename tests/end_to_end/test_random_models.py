"""Small random checkpoints through all stages: YAML, checkpoint, trace, passes, kernels, artifact, runtime."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.checkpoints import write_checkpoint, write_gguf
from support.end_to_end import (
    check_against_transformers,
    compile_checkpoint,
    reference_for,
    relative_error,
)
from support.patched_checkpoint import add_patched_files, patched_config

from vamc_py.artifact.verify import read_manifest
from vamc_py.compiler import Compiled
from vamc_py.runtime.executor import Executor

SCALE = 0.3  # of the random weights: large enough for the tokens to differ


def prompts(vocab: int, count: int = 8) -> list[list[int]]:
    """Random prompts of different lengths."""
    random = np.random.default_rng(1)
    return [random.integers(0, vocab, size=3 + 7 * index).tolist() for index in range(count)]


MODELS: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "qwen2": {"tied": False, "heads": 6, "kv_heads": 2, "hidden": 96},
    "llama": {"dtype": "bfloat16", "shards": 2},
}


@dataclass(frozen=True)
class Model:
    """A checkpoint of a random model, and what it compiles to in float32."""

    checkpoint: Path
    config: dict[str, Any]
    compiled: Compiled


@pytest.fixture(scope="module")
def float32(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    """``float32(architecture)``: one of MODELS, compiled once."""

    @cache
    def made(architecture: str) -> Model:
        folder = tmp_path_factory.mktemp(architecture)
        config = write_checkpoint(folder / "checkpoint", architecture=architecture, scale=SCALE, **MODELS[architecture])
        return Model(folder / "checkpoint", config, compile_checkpoint(folder / "checkpoint", folder))

    return made


@pytest.mark.parametrize("architecture", MODELS)
def test_float32_equals_transformers(float32: Callable[[str], Model], architecture: str) -> None:
    model = float32(architecture)
    assert model.compiled.notes == ()
    executor = Executor.load(model.compiled.folder, slots=2)
    check_against_transformers(executor, reference_for(model.checkpoint), prompts(model.config["vocab_size"]))


def test_gguf_equals_transformers(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    config = write_gguf(path, architecture="llama", quantization="Q8_0", scale=SCALE)
    compiled = compile_checkpoint(path, tmp_path)
    executor = Executor.load(compiled.folder, slots=2)
    check_against_transformers(executor, reference_for(path), prompts(config["vocab_size"], 2), count=16)


def test_yarn_equals_transformers(tmp_path: Path) -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
    write_checkpoint(tmp_path / "checkpoint", architecture="qwen3", scale=SCALE, rope_scaling=scaling)
    compiled = compile_checkpoint(tmp_path / "checkpoint", tmp_path)
    executor = Executor.load(compiled.folder, slots=2)
    check_against_transformers(executor, reference_for(tmp_path / "checkpoint"), prompts(288, 2), count=60)


@pytest.mark.parametrize("architecture", ["qwen3", "qwen2"])
def test_a_checkpoints_own_code_matches_the_built_in_model(
    float32: Callable[[str], Model], tmp_path: Path, architecture: str
) -> None:
    ours = float32(architecture)
    folder = shutil.copytree(ours.checkpoint, tmp_path / "checkpoint")
    add_patched_files(folder, patched_config(ours.config))
    theirs = compile_checkpoint(folder, tmp_path / "theirs", trust=True)
    assert theirs.notes == ()
    prompt = prompts(ours.config["vocab_size"])[4]
    logits = [Executor.load(one.folder).feed(prompt, slot=0, start=0) for one in (ours.compiled, theirs)]
    assert relative_error(logits[1], logits[0]) < 1e-5


@pytest.mark.parametrize(("dtype", "tolerance"), [("int8", 0.05), ("fp16", 0.01), ("bf16", 0.05)])
def test_narrow_weights_stay_close(tmp_path: Path, dtype: str, tolerance: float) -> None:
    write_checkpoint(tmp_path / "checkpoint", architecture="qwen3", scale=0.1)
    overrides = ["frontend.quantize.activation=int16"] if dtype == "int8" else []
    compiled = compile_checkpoint(tmp_path / "checkpoint", tmp_path, dtype=dtype, overrides=overrides)
    assert compiled.notes == ()
    assert read_manifest(compiled.folder).activation == ("int16" if dtype == "int8" else None)
    prompt = prompts(288)[5]
    model = reference_for(tmp_path / "checkpoint")
    with torch.no_grad():
        reference = model(input_ids=torch.tensor([prompt])).logits[0, -1].numpy()
    error = relative_error(Executor.load(compiled.folder).feed(prompt, slot=0, start=0), reference)
    assert 0 < error < tolerance


def test_float_embedding_and_lm_head_on_request(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoint", architecture="qwen3", scale=0.1)
    overrides = ["frontend.quantize.type=w8a16", "frontend.quantize.lm_head=false"]
    compiled = compile_checkpoint(tmp_path / "checkpoint", tmp_path, dtype="int8", overrides=overrides)
    parameters = {p.name: p.dtype for p in Executor.load(compiled.folder).manifest.parameters}
    assert parameters["model.embed_tokens.weight"] == "float16"
    assert parameters["model.layers.0.self_attn.o_proj.weight"] == "uint8"


def test_an_artifact_compiled_anew_is_loaded_anew_and_has_the_same_bytes(tmp_path: Path) -> None:
    """In one process, from the same place, while the one of another model is still loaded."""
    loaded, files = [], []
    for architecture in ("qwen2", "qwen3", "qwen2"):
        checkpoint = tmp_path / architecture
        write_checkpoint(checkpoint, architecture=architecture)
        folder = compile_checkpoint(checkpoint, tmp_path / "out", ir=True, dtype="int8").folder
        files.append(
            {
                path.relative_to(folder): path.read_bytes()
                for path in sorted(folder.rglob("*"))
                if path.is_file() and path.name != "times.json"  # seconds, outside of what the manifest vouches for
            }
        )
        loaded.append(Executor.load(folder))
        loaded[-1].feed([1, 2, 3], slot=0, start=0)
    assert [executor.manifest.model.architecture for executor in loaded] == ["qwen2", "qwen3", "qwen2"]
    assert files[0] == files[2] != files[1]
