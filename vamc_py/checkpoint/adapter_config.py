"""adapter_config.json of PEFT: what scales a LoRA, and refusals of what would compute something else."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vamc_py.checkpoint.config_keys import Keys
from vamc_py.checkpoint.jsonfile import read_json_object

_READ = ("peft_type", "r", "lora_alpha", "use_rslora", "target_modules", "rank_pattern", "alpha_pattern", "bias")
# Of training, or of where the adapter came from; `layers_…` and `exclude_…` show in the names of the tensors.
_WITHOUT_EFFECT = (
    "arrow_config",
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_dropout",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
)
# What these start from leaves the checkpoint's weights as they are; PiSSA, OLoRA, CorDA and LoftQ change them.
_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
_MOST = 1 << 16


@dataclass(frozen=True)
class AdapterConfig:
    """``targets``: names or endings of the adapted modules; empty where the config has a pattern of them."""

    targets: tuple[str, ...]
    default_rank: int
    default_alpha: float
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    rank_stabilized: bool

    def rank(self, module: str) -> int:
        return self.ranks.get(_key(self.ranks, module), self.default_rank)

    def scaling(self, module: str) -> float:
        """alpha / r, or alpha / sqrt(r) for rsLoRA."""
        rank, alpha = self.rank(module), self.alphas.get(_key(self.alphas, module), self.default_alpha)
        return alpha / (math.sqrt(rank) if self.rank_stabilized else rank)


def read_adapter_config(path: Path) -> AdapterConfig:
    """Reads the file; CheckpointError that names the key for whatever is not LoRA of linear layers.

    Keys that are not known are refused unless they are empty or false: PEFT's variants of LoRA are such keys.
    """
    content = read_json_object(path)
    keys = Keys(content, str(path))
    keys.choice("peft_type", ("LORA",))
    keys.choice("bias", ("none",), default="none")
    if (start := content.get("init_lora_weights")) not in _STARTS:
        hint = "convert the adapter when it is saved (path_initial_model_for_weight_conversion)"
        keys.refuse("init_lora_weights", f"{start!r} changes the adapted weights, too, which is not done; {hint}")
    for key, value in content.items():
        if value and key not in (*_READ, *_WITHOUT_EFFECT):
            keys.refuse(key, f"{str(value)[:60]} is not supported; only plain LoRA of linear layers is merged")
    ranks = keys.section("rank_pattern")
    alphas = keys.section("alpha_pattern")
    return AdapterConfig(
        targets=_targets(keys),
        default_rank=keys.count("r", _MOST),
        default_alpha=keys.number("lora_alpha", least=0.0, most=float(_MOST)),
        ranks={name: ranks.count(name, _MOST) for name in _patterns(keys, "rank_pattern")},
        alphas={name: alphas.number(name, least=0.0, most=float(_MOST)) for name in _patterns(keys, "alpha_pattern")},
        rank_stabilized=keys.flag("use_rslora", default=False),
    )


def _targets(keys: Keys) -> tuple[str, ...]:
    targets = keys.get("target_modules")
    if targets is None or isinstance(targets, str):
        return ()
    if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
        keys.refuse("target_modules", f"a list of names is expected, not {targets!r}")
    return tuple(targets)


def _patterns(keys: Keys, key: str) -> Mapping[str, object]:
    """The object, after its names were tried as regular expressions."""
    patterns = keys.mapping(key)
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            keys.refuse(key, f"{pattern!r} is no regular expression: {error}")
    return patterns


def _key(patterns: Mapping[str, object], module: str) -> str:
    """The first pattern that the module's name, or its end behind a dot, matches; the name itself without one."""
    return next((pattern for pattern in patterns if re.match(rf"(.*\.)?({pattern})$", module)), module)
