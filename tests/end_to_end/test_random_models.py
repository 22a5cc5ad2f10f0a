"""Small random checkpoints through all stages: YAML, checkpoint, trace, passes, kernels, artifact, runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.checkpoints import write_checkpoint, write_gguf
from support.end_to_end import (
    check_against_transformers,
    compile_checkpoint,
    reference_for,
    relative_error,
)
from support.patched_checkpoint import add_patched_files, patched_config

from vamc_py.artifact.verify import read_manifest
from vamc_py.runtime.executor import Executor

SCALE = 0.3  # of the random weights: large enough for the tokens to differ


def prompts(vocab: int, count: int = 8) -> list[list[int]]:
    """Random prompts of different lengths."""
    random = np.random.default_rng(1)
    return [random.integers(0, vocab, size=3 + 7 * index).tolist() for index in range(count)]


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("qwen3", {}),
        ("qwen2", {"tied": False, "heads": 6, "kv_heads": 2, "hidden": 96}),
        ("llama", {"dtype": "bfloat16", "shards": 2}),
    ],
)
def test_float32_equals_transformers(tmp_path: Path, architecture: str, options: dict[str, Any]) -> None:
    config = write_checkpoint(tmp_path / "checkpoint", architecture=architecture, scale=SCALE, **options)
    compiled = compile_checkpoint(tmp_path / "checkpoint", tmp_path)
    assert compiled.notes == ()
    executor = Executor.load(compiled.folder, slots=2)
    check_against_transformers(executor, reference_for(tmp_path / "checkpoint"), prompts(config["vocab_size"]))


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
def test_a_checkpoints_own_code_matches_the_built_in_model(tmp_path: Path, architecture: str) -> None:
    folder = tmp_path / "checkpoint"
    config = write_checkpoint(folder, architecture=architecture, scale=SCALE)
    add_patched_files(folder, patched_config(config))
    ours = compile_checkpoint(folder, tmp_path / "ours")
    theirs = compile_checkpoint(folder, tmp_path / "theirs", trust=True)
    assert theirs.notes == ()
    prompt = prompts(config["vocab_size"])[4]
    logits = [Executor.load(compiled.folder).feed(prompt, slot=0, start=0) for compiled in (ours, theirs)]
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
    import torch

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


def test_two_compiles_give_the_same_bytes(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoint", architecture="qwen2")
    folder = tmp_path / "out"
    once, again = (
        {
            path.relative_to(compiled.folder): path.read_bytes()
            for path in sorted(compiled.folder.rglob("*"))
            if path.is_file() and path.name != "times.json"  # seconds, outside of what the manifest vouches for
        }
        for compiled in (compile_checkpoint(tmp_path / "checkpoint", folder, dtype="int8") for _ in range(2))
    )
    assert once == again


def test_an_artifact_compiled_anew_is_loaded_anew(tmp_path: Path) -> None:
    """In one process, from the same place, while the old one is still loaded."""
    loaded = []
    for architecture in ("qwen2", "qwen3"):
        checkpoint = tmp_path / architecture
        write_checkpoint(checkpoint, architecture=architecture, scale=SCALE)
        loaded.append(Executor.load(compile_checkpoint(checkpoint, tmp_path / "out").folder))
        loaded[-1].feed([1, 2, 3], slot=0, start=0)
    assert [executor.manifest.model.architecture for executor in loaded] == ["qwen2", "qwen3"]
