"""int4 weights, an int8 cache, rules and calibration through all stages, on small random checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.checkpoints import write_checkpoint
from support.end_to_end import compile_checkpoint, reference_model, relative_error

from vamc_py.artifact.verify import read_manifest
from vamc_py.checkpoint import Checkpoint, open_checkpoint
from vamc_py.runtime.executor import Executor
from vamc_py.weights.formats import WeightFormat
from vamc_py.weights.plan import QuantizeGroups

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


@pytest.mark.parametrize(("architecture", "zeros"), [("qwen2", True), ("qwen3", False)])
def test_int4_weights_and_an_int8_cache(tmp_path: Path, architecture: str, zeros: bool) -> None:
    write_checkpoint(tmp_path / "model", architecture=architecture, **SHAPE)
    said = f"{{type: w4a16, group: 32, zeros: {str(zeros).lower()}, lm_head: false, activation: int16}}"
    plain = compile_checkpoint(
        tmp_path / "model", tmp_path / "plain", dtype="int8", overrides=[f"frontend.quantize={said}"]
    )
    wanted = expected(tmp_path / "model", WeightFormat("int4", 32, zeros, "float16"))
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


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_16_bit_weights_and_an_int8_cache(tmp_path: Path, dtype: str) -> None:
    write_checkpoint(tmp_path / "model", architecture="qwen2", **SHAPE)
    plain, small = (
        compile_checkpoint(tmp_path / "model", tmp_path / str(len(said)), dtype=dtype, overrides=said)
        for said in ([], ["frontend.quantize.type=w16kv8"])
    )
    assert {spec.dtype for spec in read_manifest(small.folder).step.caches} == {"int8"}
    assert 1e-5 < relative_error(logits(small.folder), logits(plain.folder)) < 0.03


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_a_calibrated_compile_is_nearer_and_found_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    monkeypatch.setenv("VAMC_CACHE", str(tmp_path / "cache"))
    write_checkpoint(tmp_path / "model", architecture="qwen2", **SHAPE)
    random = np.random.default_rng(0)
    words = ["the", "model", "reads", "a", "long", "text", "of", "words", "again", "and"]
    (tmp_path / "text.txt").write_text(" ".join(random.choice(words, 6000)), encoding="utf-8")
    data = f"dataset={{name: text, path: {tmp_path / 'text.txt'}, nsamples: 8, seqlen: 32}}"
    folders = {}
    for kind in ("w4a16", f"w4a16_{method}"):
        said = f"frontend.quantize={{type: {kind}, group: 32, lm_head: false, activation: int16}}"
        folders[kind] = compile_checkpoint(
            tmp_path / "model", tmp_path / kind, dtype="int8", overrides=[said, data]
        ).folder
    assert "calibration" in capsys.readouterr().err
    types = [{one.name: one.dtype for one in read_manifest(folder).parameters} for folder in folders.values()]
    assert types[0] == types[1]
    model = reference_model(open_checkpoint(str(tmp_path / "model"), "huggingface"))
    with torch.no_grad():
        exact = model(input_ids=torch.tensor([PROMPT])).logits[0, -1].numpy()
    near, nearer = (np.linalg.norm(logits(folder) - exact) for folder in folders.values())
    assert 0 < nearer < near * 1.2  # a random model has little to gain
    said = f"frontend.quantize={{type: w4a16_{method}, group: 32, lm_head: false, activation: int16}}"
    again = compile_checkpoint(tmp_path / "model", tmp_path / "again", dtype="int8", overrides=[said, data])
    assert "layers: 1 of" not in capsys.readouterr().err  # nothing is calibrated a second time
    assert (again.folder / "params.bin").read_bytes() == (folders[f"w4a16_{method}"] / "params.bin").read_bytes()
