"""config.json and generation_config.json of a model in a GGUF file, from the file's metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vamc_py.errors import CheckpointError

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
# Metadata under "<architecture>." that changes the arithmetic in a way that these three models do not have,
# and the values that change nothing.
_FOREIGN = {
    "expert_count": (0,),
    "attention.scale": (0,),
    "embedding_scale": (0, 1),
    "residual_scale": (0, 1),
    "logit_scale": (0, 1),
    "rope.scale_linear": (0, 1),
}
# Control tokens that end an answer in the families served; llama.cpp stops at them too.
_ENDS = ("<|endoftext|>", "<|im_end|>", "<|end_of_text|>", "<|eot_id|>", "<｜end▁of▁sentence｜>")
_CONTROL = 3  # tokenizer.ggml.token_type
_SAMPLING = {
    "general.sampling.temp": "temperature",
    "general.sampling.top_k": "top_k",
    "general.sampling.top_p": "top_p",
    "general.sampling.min_p": "min_p",
    "general.sampling.penalty_repeat": "repetition_penalty",
}


class Metadata:
    """Typed access to the metadata; every fault is a CheckpointError that names file and key."""

    def __init__(self, path: Path, values: dict[str, Any]) -> None:
        self.path = path
        self.values = values

    def whole(self, key: str, default: int | None = None) -> int:
        """A number of at least 1."""
        value = self._get(key, default)
        if type(value) is not int or value < 1:
            raise self.fault(key, "a whole number above 0")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A float; what was stored in 32 bits comes as the shortest decimal that means it (1e-06, not 9.99…e-07)."""
        value = self._get(key, default)
        if type(value) not in (int, float) or not np.isfinite(value) or value <= 0:
            raise self.fault(key, "a finite number above 0")
        shortest = float(np.format_float_positional(np.float32(value), trim="0"))
        return shortest if np.float32(value) == value else float(value)

    def text(self, key: str, default: str | None = None) -> str:
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self.fault(key, "a text")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self.fault(key, "true or false")
        return value

    def texts(self, key: str) -> list[str]:
        texts: list[str] = self._list(key, str)
        return texts

    def numbers(self, key: str) -> list[int]:
        numbers: list[int] = self._list(key, int)
        return numbers

    def token(self, key: str, tokens: int) -> int | None:
        """The id of one of ``tokens`` tokens, or None if the key is not there."""
        value = self.values.get(key)
        if value is None or (type(value) is int and 0 <= value < tokens):
            return value
        raise self.fault(key, f"an id below {tokens}")

    def fault(self, key: str, wanted: str) -> CheckpointError:
        found = self.values.get(key)
        if found is None:
            return CheckpointError(f"{self.path} has no metadata {key}; convert the model again")
        return CheckpointError(f"{self.path}: the metadata {key} is {str(found)[:60]!r}; {wanted} is needed here")

    def _list(self, key: str, kind: type) -> Any:
        value = self._get(key, None)
        if not isinstance(value, list) or not all(type(item) is kind for item in value):
            raise self.fault(key, f"a list of {kind.__name__}")
        return value

    def _get(self, key: str, default: object) -> Any:
        return self.values.get(key, default)


def architecture(metadata: Metadata) -> str:
    """llama, qwen2 or qwen3; CheckpointError for any other, and for one part of a split file."""
    name = metadata.text("general.architecture")
    if name not in ARCHITECTURES:
        raise CheckpointError(f"{metadata.path}: the architecture {name!r} is none of {', '.join(ARCHITECTURES)}")
    if metadata.values.get("split.count", 1) not in (0, 1):
        hint = "merge the parts with llama.cpp's llama-gguf-split --merge"
        raise CheckpointError(f"{metadata.path} is one of {metadata.values['split.count']} parts; {hint}")
    return name


def model_config(metadata: Metadata, *, vocab_size: int, tied: bool) -> dict[str, Any]:
    """What config.json says, in transformers' names.

    Args:
        vocab_size: rows of the embedding.
        tied: whether the embedding is the lm_head too.
    """
    arch = architecture(metadata)
    _refuse_foreign(metadata, arch)
    hidden = metadata.whole(f"{arch}.embedding_length")
    heads = metadata.whole(f"{arch}.attention.head_count")
    context = metadata.whole(f"{arch}.context_length")
    config: dict[str, Any] = {
        "architectures": [ARCHITECTURES[arch]],
        "model_type": arch,
        "hidden_size": hidden,
        "intermediate_size": metadata.whole(f"{arch}.feed_forward_length"),
        "num_hidden_layers": metadata.whole(f"{arch}.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": metadata.whole(f"{arch}.attention.head_count_kv", heads),
        "head_dim": _head_dim(metadata, arch, hidden, heads),
        "hidden_act": "silu",
        "rms_norm_eps": metadata.number(f"{arch}.attention.layer_norm_rms_epsilon"),
        "rope_theta": metadata.number(f"{arch}.rope.freq_base", 10000.0),
        "rope_scaling": _rope_scaling(metadata, arch, context),
        "max_position_embeddings": context,
        "vocab_size": vocab_size,
        "tie_word_embeddings": tied,
        "bos_token_id": metadata.token("tokenizer.ggml.bos_token_id", vocab_size),
        "eos_token_id": metadata.token("tokenizer.ggml.eos_token_id", vocab_size),
    }
    if f"{arch}.attention.sliding_window" in metadata.values:
        window = metadata.whole(f"{arch}.attention.sliding_window")
        config |= {"sliding_window": window, "use_sliding_window": True}
    return config


def generation_config(metadata: Metadata, *, vocab_size: int) -> dict[str, Any]:
    """What generation_config.json says: every id that ends an answer, and the sampling defaults if there are some."""
    keys = ("eos", "eot", "eom")
    stops = [metadata.token(f"tokenizer.ggml.{key}_token_id", vocab_size) for key in keys]
    tokens, kinds = metadata.values.get("tokenizer.ggml.tokens"), metadata.values.get("tokenizer.ggml.token_type")
    if isinstance(tokens, list) and isinstance(kinds, list):
        pairs = enumerate(zip(tokens, kinds, strict=False))
        stops += [index for index, (token, kind) in pairs if kind == _CONTROL and token in _ENDS]
    config: dict[str, Any] = {}
    if ids := [stop for stop in dict.fromkeys(stops) if stop is not None]:
        config["eos_token_id"] = ids
    for key, name in _SAMPLING.items():
        if key in metadata.values:
            config[name] = metadata.whole(key) if name == "top_k" else metadata.number(key)
    if "temperature" in config:
        config["do_sample"] = True
    return config


def _refuse_foreign(metadata: Metadata, arch: str) -> None:
    for key, neutral in _FOREIGN.items():
        value = metadata.values.get(f"{arch}.{key}", 0)
        if value not in neutral:
            raise CheckpointError(f"{metadata.path}: {arch}.{key} = {value}: such {arch} models cannot be compiled")


def _head_dim(metadata: Metadata, arch: str, hidden: int, heads: int) -> int:
    if f"{arch}.attention.key_length" in metadata.values:
        size = metadata.whole(f"{arch}.attention.key_length")
    elif hidden % heads:
        raise metadata.fault(f"{arch}.attention.head_count", f"a divisor of the hidden size {hidden}")
    else:
        size = hidden // heads
    for key in ("attention.value_length", "rope.dimension_count"):
        if metadata.whole(f"{arch}.{key}", size) != size:
            raise metadata.fault(f"{arch}.{key}", f"the head size {size}")
    if size % 2:
        raise CheckpointError(f"{metadata.path}: the head size {size} is odd; rotary embedding needs an even one")
    return size


def _rope_scaling(metadata: Metadata, arch: str, context: int) -> dict[str, Any] | None:
    """rope_scaling in transformers' terms; the model decides which types it can compute."""
    prefix = f"{arch}.rope.scaling."
    kind = metadata.text(prefix + "type", "none")
    if kind == "none":
        return None
    factor = metadata.number(prefix + "factor")
    scaling: dict[str, Any] = {"rope_type": kind, "factor": factor}
    if kind != "yarn":
        return scaling
    scaling["original_max_position_embeddings"] = metadata.whole(prefix + "original_context_length", context)
    for key in ("beta_fast", "beta_slow"):
        if prefix + "yarn_" + key in metadata.values:
            scaling[key] = metadata.number(prefix + "yarn_" + key)
    if metadata.number(prefix + "attn_factor", 1.0) != 1.0:
        # llama.cpp multiplies YaRN's own factor; transformers replaces it.
        own = 1 + 0.1 * float(np.log(factor))
        scaling["attention_factor"] = own * metadata.number(prefix + "attn_factor")
    return scaling
