"""Which configurations the float model and the schemes have, and what they are known by."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.checkpoints import write_checkpoint, write_gguf
from support.end_to_end import configuration

from vamc_py.config import LoadedConfig
from vamc_py.errors import UserError
from vamc_py.evaluation import reference
from vamc_py.evaluation.reference import float_config, kept_in, scheme_config


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedConfig:
    """int8 with all that the float model must not have: a quantize section, data, a change to the passes."""
    write_checkpoint(tmp_path / "model", architecture="qwen3", dtype="bfloat16")
    (tmp_path / "data.jsonl").write_text("{}")
    overrides = [
        "frontend.quantize={type: w8a16, activation: int16, accept: {text: some.txt}}",
        f"dataset={{path: {tmp_path / 'data.jsonl'}}}",
        "passes=[{name: fuse-residual, off: true}]",
    ]
    return configuration(tmp_path / "model", tmp_path / "out", dtype="int8", overrides=overrides)


@pytest.mark.parametrize(("kind", "dtype"), [("bfloat16", "bf16"), ("float16", "fp16"), ("float32", "fp32")])
def test_the_float_model_has_the_checkpoints_precision(tmp_path: Path, kind: str, dtype: str) -> None:
    write_checkpoint(tmp_path / "model", architecture="qwen2", dtype=kind)
    floating = float_config(configuration(tmp_path / "model", tmp_path, dtype="int8"))
    assert floating.config.backend.dtype == dtype


def test_a_quantized_file_is_dequantized_to_float32(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", architecture="qwen2", quantization="Q4_0", hidden=64, intermediate=96)
    floating = float_config(configuration(tmp_path / "model.gguf", tmp_path, dtype="int8"))
    assert floating.config.backend.dtype == "fp32"


def test_the_float_model_keeps_nothing_of_the_quantization(loaded: LoadedConfig) -> None:
    config = float_config(loaded).config
    assert (config.frontend.quantize, config.dataset, config.passes) == (None, None, ())
    assert config.frontend.shape == loaded.config.frontend.shape
    assert config.backend.target == loaded.config.backend.target


def test_schemes(loaded: LoadedConfig) -> None:
    config = scheme_config(loaded, " w8a16 , lm_head=false").config
    assert config.frontend.quantize is not None
    assert config.frontend.quantize.model_dump(include={"type", "lm_head", "activation", "accept"}) == {
        "type": "w8a16",
        "lm_head": False,
        "activation": "int16",
        "accept": None,
    }
    assert config.passes == loaded.config.passes
    floating = scheme_config(loaded, "fp16").config
    assert (floating.backend.dtype, floating.frontend.quantize) == ("fp16", None)
    for wrong in ("", "fp16,group=32", "lm_head=false", "w8a16,", "w3a5", "w8a16,groop=3"):
        with pytest.raises(UserError):
            scheme_config(loaded, wrong)


def test_what_an_artifact_is_known_by(loaded: LoadedConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = reference._key(loaded)
    assert len(key) == 16
    assert reference._key(reference.derived(loaded, ["name=other", "workspace.path=elsewhere"])) == key
    others = {key, reference._key(reference.derived(loaded, ["frontend.quantize.activation=null"]))}
    data = tmp_path / "data.jsonl"
    os.utime(data, ns=(0, data.stat().st_mtime_ns + 1))
    others.add(reference._key(loaded))
    write_checkpoint(tmp_path / "model", architecture="qwen3", dtype="bfloat16", seed=1)
    others.add(reference._key(loaded))
    monkeypatch.setattr(reference, "_source_digest", lambda: b"another version")
    others.add(reference._key(loaded))
    assert len(others) == 5


def test_a_workspace_of_kept_models_is_its_own_place(tmp_path: Path) -> None:
    assert kept_in(tmp_path) == tmp_path / ".eval"
    assert kept_in(tmp_path / ".eval") == tmp_path / ".eval"
