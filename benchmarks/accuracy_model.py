"""A model with int8 weights and fake-quantized activations, in plain torch: what narrow activations cost, and where.

Fake quantization rounds an activation to the values that int8 can hold and multiplies in float32, so that the result is
that of an int8 kernel up to the order of its sums. No kernel is needed for it, and any set of layers can be narrow.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from vamc_py.activation import Activation, columns_per_scale
from vamc_py.check.torch_reference import causal_mask
from vamc_py.compiler import open_model
from vamc_py.config import Config
from vamc_py.config.patterns import matches
from vamc_py.errors import UserError
from vamc_py.frontend.model_config import ModelConfig
from vamc_py.frontend.models.qwen2 import Qwen2ForCausalLM
from vamc_py.frontend.models.qwen3 import Qwen3ForCausalLM
from vamc_py.frontend.weightless import build_weightless
from vamc_py.runtime.perplexity import Tokens
from vamc_py.weights.plan import QuantizeRows

Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]

MODELS: dict[str, type[Qwen2ForCausalLM]] = {"qwen2": Qwen2ForCausalLM, "qwen3": Qwen3ForCausalLM}
LARGEST = 127
# Layers that read one activation are narrow together, as they are in a merged linear.
KINDS = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
HEAD = "lm_head"


def fake_quantize(x: torch.Tensor, group: int) -> torch.Tensor:
    """f32 [..., K] rounded to int8 per row and group of ``group`` columns, as float32 again.

    Symmetric: scale = max|x| / 127, round half to even. The last group may be shorter; a group of zeros stays zero.
    """
    columns = x.shape[-1]
    groups = nn.functional.pad(x, (0, -columns % group)).unflatten(-1, (-1, group))
    scale = groups.abs().amax(-1, keepdim=True) / LARGEST
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    return (torch.round(groups / scale) * scale).flatten(-2)[..., :columns]


def narrowed(x: torch.Tensor, activation: Activation) -> torch.Tensor:
    """f32 [..., K] as the arithmetic ``activation`` sees it; int16's rounding is taken for none."""
    group = columns_per_scale(activation, x.shape[-1])
    if group is not None:
        return fake_quantize(x, group)
    return x.bfloat16().float() if activation == "bf16" else x


@dataclass(frozen=True)
class Site:
    """Linear layers that read one activation: a kind of one decoder layer, or the output projection (layer None)."""

    layer: int | None
    kind: str

    def __str__(self) -> str:
        return self.kind if self.layer is None else f"layers.{self.layer}.{self.kind}"

    def modules(self) -> tuple[str, ...]:
        """Names of the linear modules."""
        if self.layer is None:
            return (HEAD,)
        return tuple(f"model.layers.{self.layer}.{name}" for name in KINDS[self.kind])

    def matches(self, patterns: Sequence[str]) -> bool:
        """Whether a pattern names one of the weights, as in ``frontend.quantize.wide``."""
        return any(matches(pattern, f"{name}.weight") for name in self.modules() for pattern in patterns)

    def products(self, module: nn.Module) -> int:
        """Multiplications for each token of a prompt: none for the output projection, which only the last one needs."""
        if self.layer is None:
            return 0
        return sum(int(module.get_submodule(name).weight.numel()) for name in self.modules())


def sites(model: ModelConfig) -> tuple[Site, ...]:
    """Every site of a model, in the order in which they run."""
    return (*(Site(layer, kind) for layer in range(model.layers) for kind in KINDS), Site(None, HEAD))


def load_model(config: Config) -> tuple[Qwen2ForCausalLM, ModelConfig]:
    """The configuration's model in float32, its matrices rounded to int8 by row as ``backend.dtype: int8`` does.

    UserError for a build without int8 weights, and for whatever is wrong with the checkpoint.
    """
    if config.backend.dtype != "int8":
        raise UserError(f"backend.dtype is {config.backend.dtype}; narrow activations meet int8 weights only: set int8")
    checkpoint, model = open_model(config)
    module = build_weightless(lambda: MODELS[model.architecture](model))
    state = {}
    for name, parameter in module.named_parameters():
        weight = np.array(checkpoint.read(name), dtype=np.float32)
        outer = name.startswith((HEAD, "model.embed_tokens"))
        if parameter.ndim == 2 and (config.quantize_lm_head or not outer):
            weight = round_to_int8(weight)
        state[name] = torch.from_numpy(weight)
    module.load_state_dict(state, strict=False, assign=True)
    if model.tied_embedding:
        module.lm_head.weight = module.model.embed_tokens.weight
    return module.requires_grad_(False).eval(), model


def round_to_int8(weight: Floats) -> Floats:
    """f32 [rows, K] -> what the quantize-int8 pass makes of it, as float32 again."""
    values, scale = (QuantizeRows(part).apply(weight).astype(np.float32) for part in ("values", "scale"))
    values *= scale[:, None]
    return values


@contextmanager
def narrow(module: nn.Module, where: Iterable[Site], activation: Activation) -> Iterator[None]:
    """While open, the linear layers of these sites read narrowed activations."""
    with ExitStack() as stack:
        for name in itertools.chain.from_iterable(site.modules() for site in where):
            linear = module.get_submodule(name)
            handle = linear.register_forward_pre_hook(lambda _, inputs: (narrowed(inputs[0], activation),))
            stack.callback(handle.remove)
        yield


class Loss(NamedTuple):
    """Of each window, means over its scored tokens, in nats."""

    nll: Floats  # f64 [windows]: negative log-likelihood
    kl: Floats  # f64 [windows]: divergence of the next token's distribution from the wide run's


class WideRun:
    """Windows run with wide activations, kept so that a narrow layer costs only what follows it.

    The second half of each window is scored, as ``vamc-py ppl`` does. Keeps the hidden state before every layer,
    f32 [windows, C, hidden], and the scored distributions, f32 [windows, scored, vocabulary].
    """

    @torch.inference_mode()  # type: ignore[untyped-decorator, unused-ignore]
    def __init__(self, module: Qwen2ForCausalLM, model: ModelConfig, windows: Sequence[Tokens]) -> None:
        self.module, self.model = module, model
        self.tokens = torch.from_numpy(np.stack(windows))
        count, length = self.tokens.shape
        self.first = length // 2
        self.mask = causal_mask(length, 0, "additive")
        self.rotation = module.model.rotary_emb(torch.arange(length)[None])
        empty = torch.zeros((count, model.kv_heads, 0, model.head_dim))
        self.past = (empty, empty)
        self.entries = [module.model.embed_tokens(self.tokens)]
        for index in range(model.layers):
            self.entries.append(self._layer(index, self.entries[-1]))
        self.scores = torch.stack([self._scores(window) for window in self.entries[-1]])
        self.nll = np.array([float(window.mean()) for window in self._likelihoods(self.scores)])

    @torch.inference_mode()  # type: ignore[untyped-decorator, unused-ignore]
    def loss(self, where: Sequence[Site], activation: Activation) -> Loss:
        """The loss with narrow activations at these sites."""
        touched = [self.model.layers if site.layer is None else site.layer for site in where]
        begin = min(touched, default=self.model.layers)
        with narrow(self.module, where, activation):
            hidden = self.entries[begin]
            for index in range(begin, self.model.layers):
                hidden = self._layer(index, hidden)
            nll, kl = [], []
            for window, tokens, wide in zip(hidden, self.tokens, self.scores, strict=True):
                scores = self._scores(window)
                nll.append(float(self._likelihood(scores, tokens).mean()))
                kl.append(float((wide.exp() * (wide - scores)).sum(-1, dtype=torch.float64).mean()))
        return Loss(np.array(nll), np.array(kl))

    def _layer(self, index: int, hidden: torch.Tensor) -> torch.Tensor:
        return self.module.model.layers[index](hidden, self.mask, self.rotation, self.past)[0]

    def _scores(self, hidden: torch.Tensor) -> torch.Tensor:
        """Log-probabilities f32 [scored, vocabulary] of one window's hidden states [C, hidden]."""
        logits = self.module.lm_head(self.module.model.norm(hidden[self.first : -1]))
        return torch.log_softmax(logits, dim=-1)

    def _likelihoods(self, scores: torch.Tensor) -> Iterator[torch.Tensor]:
        return (self._likelihood(window, tokens) for window, tokens in zip(scores, self.tokens, strict=True))

    def _likelihood(self, scores: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """f64 [scored]: negative log-likelihoods of the tokens that came."""
        return -scores.gather(-1, tokens[self.first + 1 :, None]).double()
