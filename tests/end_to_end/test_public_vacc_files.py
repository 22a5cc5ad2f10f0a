"""vamc's public files of Qwen3, QwQ and Skywork-OR1, unchanged but for the checkpoint, on models with as many heads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.checkpoints import model_config, write_checkpoint
from support.end_to_end import reference_for, relative_error
from support.public_vamc_files import PUBLIC_FILES, QUANT_FILE, PublicFile

from benchmarks.headers import write_headers
from vamc_py.artifact.verify import read_vacc_manifest
from vamc_py.compiler import compile_config, write_programs
from vamc_py.config import check_compilable, load_config, load_text
from vamc_py.runtime.vacc import VaccExecutor
from vamc_py.target.vacc.device import Device

SMALL = ("frontend.shape.input_ids=[[32], [64]]",)
PROMPT = [7, 250, 31, 4, 99, 180, 12, 12, 66, 1, 205]
UNUSED = "frontend.model_kwargs.b2s, backend.compile, workspace.workers."


def write_model(folder: Path, file: PublicFile, *, headers: bool) -> None:
    """Random weights, or only their headers, beside the config_vacc.json that such checkpoints have."""
    shape = {
        "heads": file.heads,
        "kv_heads": file.kv_heads,
        "head_dim": 16,
        "hidden": 128,
        "intermediate": 256,
        "layers": 1,
    }
    config = model_config(architecture=file.architecture, tied=False, max_positions=2048, **shape)
    if headers:
        write_headers(folder, config)
    else:
        write_checkpoint(folder, architecture=file.architecture, tied=False, max_positions=2048, **shape)
    vacc = {"_attn_implementation": "eager", "insert_slice": True}
    (folder / "config_vacc.json").write_text(json.dumps(config | vacc))


@pytest.mark.parametrize("file", PUBLIC_FILES, ids=lambda file: file.name)
def test_they_validate(file: PublicFile) -> None:
    loaded = load_text(file.text("/path/to/model"), Path("hf.yaml"))
    check_compilable(loaded)
    *rounding, unused = loaded.notices
    kind = "tvm_vacc w8a16" if file.dtype == "int8" else "tvm_vacc"
    assert unused == f"{kind} does not use: {UNUSED}"
    assert len(rounding) == (file.dtype == "int8")
    assert loaded.config.name == file.name
    assert loaded.config.device == Device.named("VA16")


@pytest.mark.parametrize("file", [file for file in PUBLIC_FILES if file.dtype == "int8"], ids=lambda file: file.name)
def test_their_programs_of_1024_tokens_are_safe(file: PublicFile, tmp_path: Path) -> None:
    """Writing programs proves their order and their memories."""
    write_model(tmp_path / "model", file, headers=True)
    runs = write_programs(load_text(file.text(tmp_path / "model"), Path("hf.yaml")))
    for stage, tokens in (("prefill", 1024), ("decode", 1)):
        programs = runs.programs(stage)
        assert [program.rank for program in programs] == list(range(file.tp))
        assert {(program.tokens, program.context) for program in programs} == {(tokens, 2048)}
    assert runs.folders.prefill[-1] == f"prefill_1024_rank{file.tp - 1}"
    assert runs.folders.decode[0] == "decode_2048_rank0"


@pytest.mark.parametrize("file", PUBLIC_FILES, ids=lambda file: file.name)
def test_they_compile_and_compute(file: PublicFile, tmp_path: Path) -> None:
    write_model(tmp_path / "model", file, headers=False)
    config = tmp_path / "hf.yaml"
    config.write_text(file.text(tmp_path / "model"))
    loaded = load_config(config, [*SMALL, f"workspace.path={tmp_path / 'vacc_deploy'}"])
    compiled = compile_config(loaded)
    assert compiled.folder == tmp_path / "vacc_deploy" / file.name
    assert read_vacc_manifest(compiled.folder).runstreams.ranks == file.tp
    ours, reference = VaccExecutor.load(compiled.folder, threads=1), reference_for(tmp_path / "model")
    seen: list[int] = []
    for tokens in (PROMPT, [9], [255]):  # a prefill, then two decodes that read its caches
        logits = ours.feed(tokens, slot=0, start=len(seen))
        seen += tokens
        with torch.no_grad():
            expected = reference(torch.tensor([seen])).logits[0, -1].numpy()
        assert relative_error(logits, expected) < (0.03 if file.dtype == "int8" else 0.005)


def test_the_file_that_calibrates(tmp_path: Path) -> None:
    """With data GPTQ runs, and its weights are others than those rounded to nearest."""
    write_checkpoint(tmp_path / "model", architecture="llama", heads=4, kv_heads=4, layers=1, max_positions=1024)
    (tmp_path / "alpaca.json").write_text(
        json.dumps([{"instruction": "the an in", "input": "", "output": "the and in the th"}] * 8)
    )
    text = QUANT_FILE.format(checkpoint=tmp_path / "model", data=tmp_path / "alpaca.json")
    small = [*SMALL, f"workspace.path={tmp_path}", "dataset.nsamples=2", "dataset.seqlen=16"]
    loaded = load_text(text, Path("vamc_quant.yaml"), small)
    assert loaded.notices == ("tvm_vacc w8a16_gptq does not use: frontend.quantize.device, backend.compile.",)
    folders = [compile_config(loaded).folder]
    rounded = load_text(text, Path("vamc_quant.yaml"), [*small, "name=rounded", "dataset=null"])
    folders.append(compile_config(rounded).folder)
    logits = [VaccExecutor.load(folder, threads=1).feed(PROMPT, slot=0, start=0) for folder in folders]
    assert 0 < relative_error(*logits) < 0.05
