"""The first layers and the first tokens of a model: small enough to be run after every pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vamc_py.check.values import Array
from vamc_py.checkpoint import Checkpoint
from vamc_py.config import Config
from vamc_py.config.patterns import LM_HEAD, matches
from vamc_py.frontend.model_config import ModelConfig, expected_tensors
from vamc_py.frontend.trace import Traced, trace
from vamc_py.passes.quantize_activations import QuantizeActivations
from vamc_py.pipeline.base import Pass
from vamc_py.pipeline.runner import Planned
from vamc_py.weights.formats import SCALE, ZERO
from vamc_py.weights.source import VALUES, PlanSource

MOST_TOKENS = 4096  # rows of the embedding and of lm_head


class CutTensors:
    """The checkpoint's tensors as far as a cut model has them. Keeps what was read."""

    def __init__(self, checkpoint: Checkpoint, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._source = PlanSource(checkpoint)
        quantized = [name for name in checkpoint.quantized if name in shapes]
        beside = {name + ending for name in quantized for ending in (VALUES, SCALE, ZERO)}
        self.shapes = {**shapes, **{name: self._source.shapes[name] for name in beside & set(self._source.shapes)}}
        self._read: dict[str, Array] = {}

    def read(self, name: str) -> Array:
        """The first rows of a tensor, in the checkpoint's own type."""
        if name not in self._read:
            self._read[name] = np.asarray(self._source.read(name, 0, self.shapes[name][0]))
        return self._read[name]


@dataclass(frozen=True)
class CutModel:
    """A model with fewer layers and a shorter vocabulary than its checkpoint's."""

    whole: ModelConfig
    model: ModelConfig
    tensors: CutTensors
    traced: Traced

    @property
    def description(self) -> str:
        """What is run of the model, in words."""
        layers, tokens = self.model.layers, self.model.vocab_size
        cut = [] if layers == self.whole.layers else [f"the first {layers} of {self.whole.layers} layers"]
        cut += [] if tokens == self.whole.vocab_size else [f"the first {tokens} of {self.whole.vocab_size} tokens"]
        return " and ".join(cut) or f"all {layers} layers and {tokens} tokens"

    def pipeline(self, passes: Sequence[Planned]) -> tuple[Planned, ...]:
        """The passes without what they say of weights that were cut away."""
        cut_away = set(expected_tensors(self.whole)) - set(expected_tensors(self.model))

        def kept(one: Pass) -> Pass:
            if not isinstance(one, QuantizeActivations):
                return one
            return replace(one, wide=tuple(pattern for pattern in one.wide if not self._only(pattern, cut_away)))

        return tuple(replace(step, one=kept(step.one)) for step in passes)

    def _only(self, pattern: str, names: set[str]) -> bool:
        """Whether a pattern fits some of these names, and no other of the whole model."""
        found = {name for name in (*expected_tensors(self.whole), LM_HEAD) if matches(pattern, name)}
        return bool(found) and found <= names


def cut_model(config: Config, checkpoint: Checkpoint, whole: ModelConfig, layers: int) -> CutModel:
    """Traces the first ``layers`` layers over the first ``MOST_TOKENS`` tokens; no weight is read yet."""
    model = replace(whole, layers=min(whole.layers, layers), vocab_size=min(whole.vocab_size, MOST_TOKENS))
    if config.frontend.model_kwargs.trust_remote_code:
        from vamc_py.frontend.remote_code import trace_checkpoint_code

        traced = trace_checkpoint_code(
            checkpoint.path,
            cut_config(checkpoint.config, model),
            context=config.context_length,
            source=str(checkpoint.config_file),
        )
    else:
        traced = trace(model)
    return CutModel(whole, model, CutTensors(checkpoint, expected_tensors(model)), traced)


def cut_config(config: Mapping[str, Any], model: ModelConfig) -> dict[str, Any]:
    """The checkpoint's config for the cut model."""
    changed: dict[str, Any] = {**config, "num_hidden_layers": model.layers, "vocab_size": model.vocab_size}
    if isinstance(config.get("layer_types"), list):
        changed["layer_types"] = config["layer_types"][: model.layers]
    padding = config.get("pad_token_id")
    if isinstance(padding, int) and padding >= model.vocab_size:
        changed["pad_token_id"] = None  # nn.Embedding refuses one that it has no row for
    return changed
