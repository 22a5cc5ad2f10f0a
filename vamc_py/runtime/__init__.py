"""Runs artifacts: executor, tokenizer, chat template, sampler. Imports no compiler, no torch, no transformers."""

from __future__ import annotations

from vamc_py.runtime.conversation import Conversation
from vamc_py.runtime.generate import Generation, Result, Timings
from vamc_py.runtime.model import Model, load
from vamc_py.runtime.settings import SamplingSettings

__all__ = ["Conversation", "Generation", "Model", "Result", "SamplingSettings", "Timings", "load"]
