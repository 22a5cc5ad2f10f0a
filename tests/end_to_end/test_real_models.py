"""The acceptance measurements on real checkpoints; they need VAMC_PY_MODELS, a folder that holds the GGUF files.

SmolLM2-135M-Instruct.Q4_1.gguf and qwen2.5-coder-0.5b-instruct-q4_k_m.gguf, both public.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.end_to_end import check_against_transformers, compile_checkpoint, reference_for

from vamc_py.runtime.executor import Executor
from vamc_py.runtime.tokenizer import Tokenizer

MODELS = Path(os.environ.get("VAMC_PY_MODELS", "/nonexistent"))
FILES = ("SmolLM2-135M-Instruct.Q4_1.gguf", "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf")
PROMPTS = (
    "The capital of France is",
    "def quicksort(items):\n    ",
    "Once upon a time, in a small village by the sea,",
    "1, 2, 3, 4,",
    "Question: Why is the sky blue?\nAnswer:",
    "import numpy as np\n\nx = np.arange(10)\nprint(",
    "The three laws of thermodynamics are",
    "天气很好，我们去",
)


@pytest.mark.parametrize("name", FILES)
def test_float32_greedy_equals_transformers(tmp_path: Path, name: str) -> None:
    path = MODELS / name
    if not path.is_file():
        pytest.skip(f"VAMC_PY_MODELS holds no {name}")
    compiled = compile_checkpoint(path, tmp_path, prefill=64, context=256)
    tokenizer = Tokenizer.read(compiled.folder / "tokenizer")
    prompts = [tokenizer.encode_raw(prompt) for prompt in PROMPTS]
    worst = check_against_transformers(Executor.load(compiled.folder, slots=2), reference_for(path), prompts)
    print(f"{name}: largest relative error of the logits {worst:.1e}")
