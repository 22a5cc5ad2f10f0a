"""Compile a checkpoint as a user would, and compare what runs with transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from vamc_py.checkpoint import Checkpoint, open_checkpoint
from vamc_py.compiler import Compiled, compile_config
from vamc_py.config import LoadedConfig
from vamc_py.config.load import load_text
from vamc_py.pipeline import build
from vamc_py.runtime.executor import Executor

Logits = npt.NDArray[np.float32]

YAML = """\
name: model
frontend:
  checkpoint: {checkpoint}
  type: {kind}
  shape:
    input_ids: [[{prefill}], [{context}]]
  model_kwargs: {{model_arch: {arch}, trust_remote_code: {trust}}}
backend: {{type: tvm_llvm, dtype: {dtype}}}
workspace: {{path: {workspace}}}
"""


def configuration(checkpoint: Path, workspace: Path, *, dtype: str = "fp32", **options: Any) -> LoadedConfig:
    """A configuration for a folder or a GGUF file; options: prefill, context, trust (its own code), kind (onnx),
    overrides."""
    trust = bool(options.get("trust", False))
    text = YAML.format(
        checkpoint=checkpoint,
        kind=options.get("kind", "gguf" if checkpoint.suffix == ".gguf" else "huggingface"),
        prefill=options.get("prefill", 64),
        context=options.get("context", 128),
        arch="vacc" if trust else "null",
        trust=str(trust).lower(),
        dtype=dtype,
        workspace=workspace,
    )
    return load_text(text, workspace / "model.yaml", options.get("overrides", ()))


def compile_checkpoint(checkpoint: Path, workspace: Path, *, ir: bool = False, **options: Any) -> Compiled:
    """As ``vamc-py compile`` does. Writing the ``ir`` takes an eighth of the time; few tests read it."""
    overrides = [*options.pop("overrides", ()), f"workspace.enable_ir={str(ir).lower()}"]
    return compile_config(configuration(checkpoint, workspace, overrides=overrides, **options))


def without_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiles leave out what takes longest, the machine code of the kernels; for tests of what else they write."""
    monkeypatch.setattr(build, "build_module", lambda *_: None)
    monkeypatch.setattr(build, "export_module", lambda _module, path, _link: path.write_bytes(b"a module"))


def reference_model(checkpoint: Checkpoint) -> Any:
    """transformers' own model with the checkpoint's weights, float32, eager attention."""
    config = AutoConfig.for_model(**checkpoint.config)
    config._attn_implementation = "eager"
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    weights = {name: torch.from_numpy(checkpoint.read(name).astype(np.float32)) for name in checkpoint.tensors}
    if config.tie_word_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model.load_state_dict(weights, assign=True)
    # Buffers that were built on the meta device hold no values; the rotary embedding is built again.
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    return model.eval()


def reference_for(path: Path) -> Any:
    """The reference of a checkpoint folder or GGUF file."""
    return reference_model(open_checkpoint(str(path), "gguf" if path.suffix == ".gguf" else "huggingface"))


def greedy_reference(model: Any, prompt: list[int], count: int) -> tuple[list[int], Logits]:
    """transformers' greedy continuation, and the logits of each of its tokens [count, vocab]."""
    ids, past, rows = torch.tensor([prompt]), None, []
    tokens: list[int] = []
    with torch.no_grad():
        for _ in range(count):
            out = model(input_ids=ids, past_key_values=past, use_cache=True)
            past = out.past_key_values
            rows.append(out.logits[0, -1].numpy())
            tokens.append(int(rows[-1].argmax()))
            ids = torch.tensor([[tokens[-1]]])
    return tokens, np.stack(rows)


@dataclass
class Greedy:
    """Our greedy continuation in one slot, fed a step at a time so that two can be interleaved."""

    executor: Executor
    slot: int
    prompt: list[int]

    def __post_init__(self) -> None:
        self.tokens: list[int] = []
        self.rows: list[Logits] = []

    def prefill(self, chunk: int | None = None) -> None:
        """Feeds the prompt, whole or in chunks of ``chunk`` tokens."""
        size = chunk or len(self.prompt)
        for start in range(0, len(self.prompt), size):
            logits = self.executor.feed(self.prompt[start : start + size], slot=self.slot, start=start)
        self._take(logits)

    def decode(self) -> None:
        """One more token."""
        position = len(self.prompt) + len(self.tokens) - 1
        self._take(self.executor.feed([self.tokens[-1]], slot=self.slot, start=position))

    def _take(self, logits: Logits) -> None:
        self.rows.append(logits)
        self.tokens.append(int(logits.argmax()))


def relative_error(ours: Logits, reference: Logits) -> float:
    """The largest difference over the largest logit."""
    return float(np.abs(ours - reference).max() / np.abs(reference).max())


def check_against_transformers(executor: Executor, model: Any, prompts: list[list[int]], count: int = 64) -> float:
    """Greedy tokens equal, logits within 1e-4: each prompt whole, in chunks, and two slots interleaved.

    Returns the largest relative error of the logits.
    """
    worst = 0.0
    expected = [greedy_reference(model, prompt, count) for prompt in prompts]
    for index, prompt in enumerate(prompts):
        other = (index + 1) % len(prompts)
        whole, chunked = Greedy(executor, 0, prompt), Greedy(executor, 1, prompts[other])
        whole.prefill()
        chunked.prefill(chunk=5)
        for _ in range(count - 1):
            whole.decode()
            chunked.decode()
        for ours, (tokens, rows) in ((whole, expected[index]), (chunked, expected[other])):
            assert ours.tokens == tokens
            worst = max(worst, relative_error(np.stack(ours.rows), rows))
    assert worst < 1e-4
    return worst
