"""Whether a model's sizes suit the dies that are to share it: known from its config, before anything is traced."""

from __future__ import annotations

from collections.abc import Iterator

from vamc_py.config import LoadedConfig
from vamc_py.frontend.model_config import ModelConfig, expected_matrices
from vamc_py.needs import configured_format
from vamc_py.pipeline.shards import TILE, shard_faults

_BEHIND_SPLITS = ("o_proj.weight", "down_proj.weight")
"""Weights whose columns the dies share."""


def size_faults(loaded: LoadedConfig, model: ModelConfig) -> Iterator[str]:
    """Why the vacc target cannot compile a model of these sizes, a sentence each with its place in the YAML."""
    for name in ("hidden_size", "intermediate_size", "head_dim"):
        if (size := getattr(model, name)) % TILE:
            yield loaded.fault(
                "frontend.checkpoint",
                f"{name} is {size}: the vacc target takes widths that are multiples of {TILE}; compile for tvm_llvm "
                "(--set backend.type=tvm_llvm)",
            )
    for fault in _shard_faults(loaded, model):
        yield loaded.fault("frontend.model_kwargs.tp", fault)


def _shard_faults(loaded: LoadedConfig, model: ModelConfig) -> list[str]:
    """Each once; scales of groups may differ between layers."""
    kwargs = loaded.config.frontend.model_kwargs
    names = [name for name in expected_matrices(model) if name.endswith(_BEHIND_SPLITS)]
    formats = (configured_format(name, loaded.config) for name in names)
    groups = {None, *(form.group for form in formats if form is not None)}
    faults = [
        fault
        for group in sorted(groups, key=lambda group: group or 0)
        for fault in shard_faults(
            model.heads, model.kv_heads, model.intermediate_size, kwargs.tp,
            align=kwargs.align_qkv, head_dim=model.head_dim, group=group,
        )
    ]  # fmt: skip
    return list(dict.fromkeys(faults))
