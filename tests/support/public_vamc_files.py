"""Language-model files as vamc's public ones are, rebuilt from their facts: names, values, empty lines, blanks.

All that differs from file to file are the model, the data type and the number of dies.
"""

from __future__ import annotations

from dataclasses import dataclass

_TEXT = """\
name: {model}-{dtype}-tp{tp}-1024-2048

frontend:
  checkpoint: {checkpoint}
  type: huggingface

  shape:
    input_ids: [[1024], [2048]]

  model_kwargs:
    b2s: true
    tp: {tp}
    model_arch: vacc
{quantize}
backend:
  type: tvm_vacc
  dtype: {dtype}
  merge_params: true
  compile:
    data_type: 0
    gather_data_vccl_dsp_enable: true
    \nworkspace:
  path: ./vacc_deploy
  workers: 4"""
_GPTQ = """\
  quantize:
    type: w8a16_gptq
    """


@dataclass(frozen=True)
class PublicFile:
    """One of them, with how many heads the model has, which is what the dies share."""

    model: str
    dtype: str
    tp: int
    architecture: str
    heads: int
    kv_heads: int

    @property
    def name(self) -> str:
        """Of the artifact."""
        return f"{self.model}-{self.dtype}-tp{self.tp}-1024-2048"

    def text(self, checkpoint: object) -> str:
        """The file with another checkpoint."""
        quantize = _GPTQ if self.dtype == "int8" else ""
        return _TEXT.format(model=self.model, dtype=self.dtype, tp=self.tp, checkpoint=checkpoint, quantize=quantize)


PUBLIC_FILES = tuple(
    PublicFile(model, dtype, *facts)
    for model, *facts in (
        ("Qwen3-8B", 4, "qwen3", 32, 8),
        ("QwQ-32B", 8, "qwen2", 40, 8),
        ("Skywork-OR1-7B-Preview", 4, "qwen2", 28, 4),
    )
    for dtype in ("fp16", "int8")
)

QUANT_FILE = """\
name: llm
frontend:
  checkpoint: {checkpoint}
  type: huggingface
  shape:
    input_ids: [[512], [1024]]
  quantize:
    type: w8a16_gptq
    device: cuda:5
    calib_args:
      true_sequential: false

backend:
  type: tvm_vacc
  dtype: int8
  merge_params: true
  compile:
    data_type: 0

dataset:
  type: huggingface
  nsamples: 128

  # name: c4
  # seqlen: 1024

  name: alpaca
  path: {data}
  seqlen: 512

workspace:
  path: vamc_results
  workers: 1
"""
"""The one that calibrates, on one die."""
