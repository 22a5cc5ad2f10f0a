"""int4 weights, an int8 cache, rules and calibration through all stages, on small random checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.checkpoints import write_checkpoint
from support.end_to_end import compile_checkpoint, configuration, reference_model, relative_error

from vamc_py.artifact.verify import read_manifest
from vamc_py.checkpoint import Checkpoint, open_checkpoint
from vamc_py.compiler import compile_config, open_model
from vamc_py.quant.stage import calibrated
from vamc_py.runtime.executor import Executor
from vamc_py.weights.formats import WeightFormat
from vamc_py.weights.plan import QuantizeGroups
from vamc_py.weights.source import PlanSource

SHAPE: dict[str, Any] = {"hidden": 80, "intermediate": 176, "heads": 5, "kv_heads": 1, "scale": 0.3}
PROMPT = np.random.default_rng(3).integers(0, 288, 40).tolist()


class Rounded:
    """A float checkpoint whose decoder layers are rounded as a format says."""

    def __init__(self, base: Checkpoint, form: WeightFormat, kept: str = "nothing") -> None:
        self.config, self.tensors = base.config, base.tensors
        self._base, self._form, self._kept = base, form, kept

    def read(self, name: str) -> Any:
        weight = self._base.read(name)
        if not name.endswith("_proj.weight") or self._kept in name:
            return weight
        form = self._form
        parts = ("values", "scale", *(["zero"] if form.zeros else []))
        steps = (QuantizeGroups(part, form.values, form.group, form.zeros, form.scale) for part in parts)
        return form.dequantize(*(step.apply(weight) for step in steps))


def expected(checkpoint: Path, form: WeightFormat, **options: Any) -> Any:
    model = reference_model(Rounded(open_checkpoint(str(checkpoint), "huggingface"), form, **options))  # type: ignore[arg-type]
    with torch.no_grad():
        return model(input_ids=torch.tensor([PROMPT])).logits[0, -1].numpy()


def logits(folder: Path, *pieces: int) -> Any:
    executor, start = Executor.load(folder), 0
    for piece in pieces or (len(PROMPT),):
        result = executor.feed(PROMPT[start : start + piece], slot=0, start=start)
        start += piece
    return result


def test_int4_weights_and_an_int8_cache(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "model", architecture="qwen2", **SHAPE)
    said = "{type: w4a16, group: 32, zeros: true, lm_head: false, activation: int16}"
    plain = compile_checkpoint(
        tmp_path / "model", tmp_path / "plain", dtype="int8", overrides=[f"frontend.quantize={said}"]
    )
    wanted = expected(tmp_path / "model", WeightFormat("int4", 32, zeros=True, scale="float16"))
    assert plain.notes == ()
    assert relative_error(logits(plain.folder), wanted) < 3e-3  # the cache is float16
    small = compile_checkpoint(
        tmp_path / "model",
        tmp_path / "small",
        dtype="int8",
        overrides=[f"frontend.quantize={said}", "frontend.quantize.kv8=true"],
    )
    assert small.notes == ()
    assert {spec.dtype for spec in read_manifest(small.folder).step.caches} == {"int8"}
    error = relative_error(logits(small.folder), wanted)
    assert 1e-4 < error < 0.03
    assert relative_error(logits(small.folder, 13, 1, 1, 25), logits(small.folder)) < 1e-6


def test_rules_keep_weights_wider(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "model", architecture="qwen3", **SHAPE)
    rules = "[{match: '*.down_proj', type: fp16}]"
    said = f"frontend.quantize={{type: w4a16, group: 64, lm_head: false, activation: int16, rules: {rules}}}"
    compiled = compile_checkpoint(tmp_path / "model", tmp_path / "out", dtype="int8", overrides=[said])
    kinds = {one.name: one.dtype for one in read_manifest(compiled.folder).parameters}
    assert kinds["model.layers.0.mlp.down_proj.weight"] == "float16"
    assert kinds["model.layers.0.self_attn.o_proj.weight"] == "uint8"
    wanted = expected(tmp_path / "model", WeightFormat("int4", 64, scale="float16"), kept="down_proj")
    assert relative_error(logits(compiled.folder), wanted) < 3e-3


def test_16_bit_weights_and_an_int8_cache(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "model", architecture="qwen2", dtype="bfloat16", **SHAPE)
    said = ["frontend.quantize.type=w16kv8"]
    compiled = compile_checkpoint(tmp_path / "model", tmp_path / "out", dtype="bf16", overrides=said)
    assert {spec.dtype for spec in read_manifest(compiled.folder).step.caches} == {"int8"}
    model = reference_model(open_checkpoint(str(tmp_path / "model"), "huggingface"))
    with torch.no_grad():
        exact = model(input_ids=torch.tensor([PROMPT])).logits[0, -1].numpy()
    assert 1e-5 < relative_error(logits(compiled.folder), exact) < 0.03


class Dequantized:
    """A calibrated checkpoint with the weights that it means."""

    def __init__(self, calibrated: Checkpoint) -> None:
        self.config, self._source = calibrated.config, PlanSource(calibrated)
        self.tensors = [name for name in calibrated.tensors if not name.endswith((".scale", ".zero"))]

    def read(self, name: str) -> Any:
        return self._source.read(name)


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_a_calibrated_compile_has_the_calibrated_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    monkeypatch.setenv("VAMC_CACHE", str(tmp_path / "cache"))
    write_checkpoint(tmp_path / "model", architecture="qwen2", **SHAPE)
    words = ["the", "model", "reads", "a", "long", "text", "of", "words", "again", "and"]
    text = " ".join(np.random.default_rng(0).choice(words, 6000))
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    said = [
        f"frontend.quantize={{type: w4a16_{method}, group: 32, lm_head: false, activation: int16}}",
        f"dataset={{name: text, path: {tmp_path / 'text.txt'}, nsamples: 8, seqlen: 32}}",
    ]
    loaded = configuration(tmp_path / "model", tmp_path / "out", dtype="int8", overrides=said)
    compiled = compile_config(loaded)
    assert compiled.notes == ()
    assert "layers: 1 of 2" in capsys.readouterr().err
    found = calibrated(loaded, *open_model(loaded.config))
    assert "layers: 1 of 2" not in capsys.readouterr().err  # in the cache
    assert len(found.quantized) == 2 * 7
    model = reference_model(Dequantized(found))  # type: ignore[arg-type]
    with torch.no_grad():
        exact = model(input_ids=torch.tensor([PROMPT])).logits[0, -1].numpy()
    assert relative_error(logits(compiled.folder), exact) < 3e-3
