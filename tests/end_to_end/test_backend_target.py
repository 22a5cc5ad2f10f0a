"""A model compiled for CPUs without VNNI or AVX-512: the same logits, and only what those CPUs have in the module."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from support.checkpoints import write_checkpoint
from support.end_to_end import check_against_transformers, compile_checkpoint, reference_for, relative_error
from support.instruction_sets import runnable

from vamc_py.artifact.verify import read_manifest
from vamc_py.runtime.executor import Executor
from vamc_py.target.description import REQUIRED

LEVEL = "x86-64-v3"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(folder, architecture="qwen3", scale=0.3)
    return folder


def prompts() -> list[list[int]]:
    random = np.random.default_rng(1)
    return [random.integers(0, 288, size=size).tolist() for size in (3, 24, 50)]


def test_a_float32_build_for_avx2_equals_transformers(checkpoint: Path, tmp_path: Path) -> None:
    compiled = compile_checkpoint(checkpoint, tmp_path, overrides=[f"backend.target={LEVEL}"])
    assert compiled.notes == ()
    executor = Executor.load(compiled.folder, slots=2)
    check_against_transformers(executor, reference_for(checkpoint), prompts())


@pytest.fixture(scope="module")
def folders(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same int8 artifact for AVX2 and for this machine."""
    place = tmp_path_factory.mktemp("artifacts")
    exact = "frontend.quantize.activation=int16"
    return {
        target: compile_checkpoint(
            checkpoint, place / target, dtype="int8", overrides=[f"backend.target={target}", exact]
        ).folder
        for target in (LEVEL, "native")
    }


def test_an_int8_build_for_avx2_gives_what_that_of_this_machine_gives(folders: dict[str, Path]) -> None:
    target = read_manifest(folders[LEVEL]).target
    assert (target.mcpu, target.features) == (LEVEL, REQUIRED)
    ours, native = (Executor.load(folder) for folder in folders.values())
    for prompt in prompts():
        logits = [executor.feed(prompt, slot=0, start=0) for executor in (ours, native)]
        assert relative_error(logits[0], logits[1]) < 1e-4


@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump")
def test_a_module_for_avx2_has_no_register_of_avx512(folders: dict[str, Path]) -> None:
    command = ["objdump", "-d", "--no-show-raw-insn", str(folders[LEVEL] / "mod.so")]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "%ymm" in text
    assert "vpmaddwd" in text
    assert not re.search(r"%zmm|%k[0-7]|vpdpbusd|vdpbf16ps", text)


def test_a_build_for_avx512_without_vnni_runs(checkpoint: Path, folders: dict[str, Path], tmp_path: Path) -> None:
    runnable("x86-64-v4")
    options = {"dtype": "int8", "overrides": ["backend.target=x86-64-v4"]}
    executor, expected = (
        Executor.load(folder) for folder in (compile_checkpoint(checkpoint, tmp_path, **options).folder, folders[LEVEL])
    )
    prompt = prompts()[1]
    logits = [each.feed(prompt, slot=0, start=0) for each in (executor, expected)]
    assert relative_error(*logits) < 1e-4
