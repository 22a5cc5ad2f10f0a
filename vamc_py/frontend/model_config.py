"""What the compiler has to know about a model, read from a Hugging Face config; no torch here.

Everything that would make the model compute something else than our Qwen2 and Qwen3 do is refused with the key named:
a model that runs but answers nonsense is worse than a sentence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vamc_py.artifact.manifest import ModelFacts
from vamc_py.checkpoint.config_keys import Keys
from vamc_py.errors import CheckpointError
from vamc_py.frontend.rope import Rope

Architecture = Literal["qwen2", "qwen3"]

# Llama is Qwen2 without the biases of q, k and v.
_ARCHITECTURES: dict[str, Architecture] = {"qwen2": "qwen2", "qwen3": "qwen3", "llama": "qwen2"}
_QWEN3_HEAD_DIM = 128  # what transformers takes where a qwen3 config has no head_dim
_DEFAULT_THETA = 10000.0  # likewise for rope_theta
_ROPE_KEYS = {"rope_type", "type", "rope_theta"}
_YARN_KEYS = _ROPE_KEYS | {
    "factor",
    "original_max_position_embeddings",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "truncate",
}


@dataclass(frozen=True)
class ModelConfig:
    """Shape and constants of a decoder-only model with GQA, RMSNorm, RoPE and SwiGLU.

    ``architecture`` "qwen3" has an RMSNorm over each head of q and k; "qwen2" has none.
    """

    architecture: Architecture
    layers: int
    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    rms_norm_eps: float
    tied_embedding: bool  # lm_head is the embedding table
    max_positions: int  # positions for which the rotary embedding is meant
    qkv_bias: bool
    output_bias: bool  # of o_proj
    rope: Rope

    @classmethod
    def from_hf(cls, config: Mapping[str, Any], source: str = "config.json") -> ModelConfig:
        """Reads a config as transformers 4.x or 5.x writes it; ``source`` is the name that errors give.

        Raises CheckpointError that names the key: missing, ill-typed or absurd values, and whatever the models here do
        not compute (other model types, rope types and activations, an active sliding window, biases in the MLP).
        """
        keys = Keys(config, source)
        kind = keys.choice("model_type", tuple(_ARCHITECTURES))
        _refuse_other_computations(keys)
        hidden_size, heads = keys.count("hidden_size", 1 << 17), keys.count("num_attention_heads", 1 << 12)
        kv_heads = keys.count("num_key_value_heads", 1 << 12, default=heads)
        if heads % kv_heads:
            keys.refuse("num_key_value_heads", f"{kv_heads} does not divide the {heads} attention heads")
        positions = keys.count("max_position_embeddings", 1 << 26)
        rope = _rope(keys, positions)
        if rope.kind == "yarn":
            positions = max(positions, int(rope.factor * rope.original_max_positions))
        layers = keys.count("num_hidden_layers", 1 << 10)
        _refuse_sliding_window(keys, layers, positions)
        attention_bias = keys.flag("attention_bias", default=False)
        return cls(
            architecture=_ARCHITECTURES[kind],
            layers=layers,
            hidden_size=hidden_size,
            intermediate_size=keys.count("intermediate_size", 1 << 20),
            heads=heads,
            kv_heads=kv_heads,
            head_dim=_head_dim(keys, kind, hidden_size, heads),
            vocab_size=keys.count("vocab_size", 1 << 24),
            rms_norm_eps=keys.number("rms_norm_eps", least=0.0, most=1.0, default=1e-6),
            tied_embedding=keys.flag("tie_word_embeddings", default=False),
            max_positions=positions,
            qkv_bias=attention_bias or kind == "qwen2",
            output_bias=attention_bias and kind != "qwen2",  # qwen2 has no such key: its biases are fixed
            rope=rope,
        )


def expected_tensors(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of each tensor that a checkpoint of the model holds, by Hugging Face's names, in model order."""
    tensors: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (model.vocab_size, model.hidden_size)}
    for layer in range(model.layers):
        for name, shape in _layer_tensors(model).items():
            tensors[f"model.layers.{layer}.{name}"] = shape
    tensors["model.norm.weight"] = (model.hidden_size,)
    if not model.tied_embedding:
        tensors["lm_head.weight"] = (model.vocab_size, model.hidden_size)
    return tensors


def expected_matrices(model: ModelConfig) -> list[str]:
    """The names of those of two dimensions: weights of linear layers, the embedding, lm_head where it is not tied."""
    return [name for name, shape in expected_tensors(model).items() if len(shape) == 2]


def _layer_tensors(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    hidden, inner = model.hidden_size, model.intermediate_size
    kv_rows = model.kv_heads * model.head_dim
    rows = {"q": model.heads * model.head_dim, "k": kv_rows, "v": kv_rows}
    tensors: dict[str, tuple[int, ...]] = {"input_layernorm.weight": (hidden,)}
    for name, size in rows.items():
        tensors[f"self_attn.{name}_proj.weight"] = (size, hidden)
        if model.qkv_bias:
            tensors[f"self_attn.{name}_proj.bias"] = (size,)
    tensors["self_attn.o_proj.weight"] = (hidden, rows["q"])
    if model.output_bias:
        tensors["self_attn.o_proj.bias"] = (hidden,)
    if model.architecture == "qwen3":
        tensors["self_attn.q_norm.weight"] = (model.head_dim,)
        tensors["self_attn.k_norm.weight"] = (model.head_dim,)
    tensors["post_attention_layernorm.weight"] = (hidden,)
    tensors["mlp.gate_proj.weight"] = (inner, hidden)
    tensors["mlp.up_proj.weight"] = (inner, hidden)
    tensors["mlp.down_proj.weight"] = (hidden, inner)
    return tensors


def _head_dim(keys: Keys, kind: str, hidden_size: int, heads: int) -> int:
    if keys.get("head_dim") is None and kind != "qwen3" and hidden_size % heads:
        keys.refuse("hidden_size", f"{hidden_size} is not a multiple of the {heads} attention heads")
    head_dim = keys.count("head_dim", 1 << 12, default=_QWEN3_HEAD_DIM if kind == "qwen3" else hidden_size // heads)
    if head_dim % 2:
        keys.refuse("head_dim", f"{head_dim} is odd, and the rotary embedding turns pairs")
    return head_dim


def _refuse_other_computations(keys: Keys) -> None:
    keys.choice("hidden_act", ("silu",), default="silu")
    if keys.flag("mlp_bias", default=False):
        keys.refuse("mlp_bias", "biases in the MLP are not supported")
    if keys.number("partial_rotary_factor", least=0.0, most=1.0, default=1.0) != 1.0:
        keys.refuse("partial_rotary_factor", "a rotary embedding over a part of each head is not supported")
    architectures = keys.get("architectures")
    if architectures is None:
        return
    if not isinstance(architectures, list) or not all(isinstance(name, str) for name in architectures):
        keys.refuse("architectures", f"a list of class names is expected, not {architectures!r}")
    if architectures and not any(name.endswith("ForCausalLM") for name in architectures):
        keys.refuse("architectures", f"only causal language models are supported, not {', '.join(architectures)}")


def _refuse_sliding_window(keys: Keys, layers: int, positions: int) -> None:
    windowed = keys.flag("use_sliding_window", default=False)
    types = keys.get("layer_types")
    if types is not None:
        if not isinstance(types, list) or len(types) != layers:
            keys.refuse("layer_types", f"a list of {layers} layer types is expected")
        for other in (kind for kind in types if kind not in ("full_attention", "sliding_attention")):
            keys.refuse("layer_types", f"{other!r} is not supported; only full_attention is")
        if "sliding_attention" not in types:
            return
    elif not windowed or keys.count("max_window_layers", 1 << 20, default=0, least=0) >= layers:
        return
    window = keys.count("sliding_window", 1 << 26, default=positions)
    if window < positions:
        keys.refuse(
            "sliding_window",
            f"attention within a sliding window of {window} tokens is not supported (the context is {positions}); "
            f"set use_sliding_window to false, or max_position_embeddings to at most {window}",
        )


def _rope(keys: Keys, positions: int) -> Rope:
    """From ``rope_theta`` and ``rope_scaling`` (transformers 4.x) or ``rope_parameters`` (5.x)."""
    section = "rope_scaling" if keys.get("rope_scaling") is not None else "rope_parameters"
    parameters = Keys({**keys.mapping("rope_parameters"), **keys.mapping("rope_scaling")}, keys.source, section)
    top_theta = keys.number("rope_theta", least=1.0, most=1e12, default=_DEFAULT_THETA)
    theta = parameters.number("rope_theta", least=1.0, most=1e12, default=top_theta)
    if theta == 1.0:
        keys.refuse("rope_theta", "1 gives every dimension the same frequency")
    kind_key = "type" if parameters.get("rope_type") is None else "rope_type"
    kind = parameters.choice(kind_key, ("default", "yarn"), default="default")
    parameters.only(_YARN_KEYS if kind == "yarn" else _ROPE_KEYS, f"means nothing to rope type {kind}")
    if kind == "default":
        return Rope(theta=theta)
    return Rope(
        theta=theta,
        kind="yarn",
        factor=parameters.number("factor", least=1.0, most=1024.0),
        original_max_positions=parameters.count("original_max_position_embeddings", 1 << 26, default=positions),
        beta_fast=parameters.number("beta_fast", least=1e-3, most=1e6, default=32.0),
        beta_slow=parameters.number("beta_slow", least=1e-3, most=1e6, default=1.0),
        attention_factor=parameters.optional_number("attention_factor", least=1e-6, most=1e3),
        mscale=parameters.optional_number("mscale", least=0.0, most=1e3),
        mscale_all_dim=parameters.optional_number("mscale_all_dim", least=0.0, most=1e3),
        truncate=parameters.flag("truncate", default=True),
    )


def model_facts(model: ModelConfig) -> ModelFacts:
    """What the manifest says of a model."""
    return ModelFacts(**{name: getattr(model, name) for name in ModelFacts.model_fields})


__all__ = ["Architecture", "CheckpointError", "ModelConfig", "Rope", "expected_tensors", "model_facts"]
