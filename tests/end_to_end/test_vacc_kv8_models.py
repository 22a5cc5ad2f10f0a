"""Models with an int8 KV cache on the vacc target's tiny card, against the llvm target with one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.checkpoints import write_checkpoint
from support.end_to_end import compile_checkpoint, relative_error

from vamc_py.runtime.executor import Executor
from vamc_py.runtime.vacc import VaccExecutor

SHAPE: dict[str, Any] = {"heads": 4, "kv_heads": 2, "head_dim": 32, "intermediate": 128, "scale": 0.1}
LENGTHS = {"prefill": 32, "context": 64}
TOKENS = np.random.default_rng(3).integers(0, 288, 40).tolist()
PROMPT = 21  # of these go in one step


def logits(executor: Any) -> Any:
    """[20, vocab]: of the prompt's last token, and of each one behind it."""
    rows = [executor.feed(TOKENS[:PROMPT], slot=0, start=0)]
    rows += [executor.feed([token], slot=0, start=PROMPT + i) for i, token in enumerate(TOKENS[PROMPT:])]
    return np.stack(rows)


@pytest.mark.parametrize(
    ("architecture", "dtype", "said", "dies"),
    [
        ("qwen2", "fp16", "type: w16kv8", (1, 2)),  # with biases of k, of which each die takes its part
        ("qwen3", "int8", "type: w8a16, lm_head: false, kv8: true", (2,)),
        ("llama", "int8", "type: w4a16, group: 32, zeros: true, lm_head: false, kv8: true", (1,)),
    ],
)
def test_as_llvm_with_an_int8_cache(
    tmp_path: Path, architecture: str, dtype: str, said: str, dies: tuple[int, ...]
) -> None:
    write_checkpoint(tmp_path / "model", architecture=architecture, **SHAPE)
    wide = f"frontend.quantize={{{said}{', activation: int16' if dtype == 'int8' else ''}}}"
    plain = compile_checkpoint(tmp_path / "model", tmp_path / "llvm", dtype=dtype, overrides=[wide], **LENGTHS)
    wanted = logits(Executor.load(plain.folder))
    for tp in dies:
        target = ["backend.type=tvm_vacc", "backend.target=tiny", f"frontend.model_kwargs.tp={tp}"]
        overrides = [f"frontend.quantize={{{said}}}", *target]
        compiled = compile_checkpoint(
            tmp_path / "model", tmp_path / f"vacc{tp}", dtype=dtype, overrides=overrides, **LENGTHS
        )
        executor = VaccExecutor.load(compiled.folder)
        # Inputs of products are float16, so some hundredths of the keys and values are rounded to the next whole number
        # than there. That is half of what the rounding itself does to the logits: 0.007 to 0.01.
        assert relative_error(logits(executor), wanted) < 5e-3
        for program in executor.dies.programs.prefill:
            caches = [(one.dtype, one.shape[0]) for one in program.tensors if one.role == "cache"]
            heads = 2 // tp
            assert caches == [("int8", heads), ("float32", heads)] * 4  # keys and values of two layers
