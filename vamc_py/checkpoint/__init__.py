"""Checkpoints: names, shapes and lazy rows of a model's weights, whatever file they are in.

>>> checkpoint = open_checkpoint("path/to/Qwen3-0.6B", "huggingface")
>>> checkpoint.tensors["model.norm.weight"]
TensorInfo(name='model.norm.weight', shape=(1024,), dtype='bfloat16')
>>> checkpoint.read("model.embed_tokens.weight", 100, 132).shape
(32, 1024)
"""

from __future__ import annotations

from vamc_py.checkpoint.adapters import AdaptedCheckpoint
from vamc_py.checkpoint.base import Checkpoint, TensorInfo
from vamc_py.checkpoint.check import check_tensors
from vamc_py.checkpoint.opening import open_checkpoint

__all__ = ["AdaptedCheckpoint", "Checkpoint", "TensorInfo", "check_tensors", "open_checkpoint"]
