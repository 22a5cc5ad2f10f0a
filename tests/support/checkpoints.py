"""Random Qwen2, Qwen3 and Llama checkpoints for tests: the same arguments always give the same bytes, without torch.

Every tensor has its own random stream, so a weight depends on the seed and its name
only, not on shards, tying or file format.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

DTYPES = {"float32": ("F32", np.float32), "float16": ("F16", np.float16), "bfloat16": ("BF16", ml_dtypes.bfloat16)}
MODEL_CLASSES = {"qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM", "llama": "LlamaForCausalLM"}
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MERGES = ["t h", "th e", "Ġ the", "i n", "Ġ a", "e r", "o n", "Ġ s", "a n", "an d", "Ġ and", "in g"]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def model_config(
    *,
    architecture: str,
    layers: int = 2,
    hidden: int = 64,
    intermediate: int = 96,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 16,
    vocab: int = 288,
    dtype: str = "float32",
    tied: bool = True,
    rope_theta: float = 10000.0,
    rope_scaling: dict[str, Any] | None = None,
    max_positions: int = 512,
) -> dict[str, Any]:
    """config.json of a tiny model, as transformers 4.x writes it."""
    config: dict[str, Any] = {
        "architectures": [MODEL_CLASSES[architecture]],
        "model_type": architecture,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": rope_theta,
        "rope_scaling": rope_scaling,
        "max_position_embeddings": max_positions,
        "vocab_size": vocab,
        "tie_word_embeddings": tied,
        "bos_token_id": _first_special(vocab),
        "eos_token_id": _first_special(vocab) + 2,
        "torch_dtype": dtype,
    }
    if architecture == "llama":
        return config | {"attention_bias": False, "mlp_bias": False}
    if architecture == "qwen3":
        config["attention_bias"] = False
    return config | {"use_sliding_window": False, "sliding_window": None}


def tensor_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every tensor of the model by its Hugging Face name."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head_dim = config["head_dim"]
    query, key = config["num_attention_heads"] * head_dim, config["num_key_value_heads"] * head_dim
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        shapes[at + "input_layernorm.weight"] = (hidden,)
        for name, rows in (("q", query), ("k", key), ("v", key)):
            shapes[f"{at}self_attn.{name}_proj.weight"] = (rows, hidden)
            if config["model_type"] == "qwen2":
                shapes[f"{at}self_attn.{name}_proj.bias"] = (rows,)
            if config["model_type"] == "qwen3" and name != "v":
                shapes[f"{at}self_attn.{name}_norm.weight"] = (head_dim,)
        shapes[at + "self_attn.o_proj.weight"] = (hidden, query)
        shapes[at + "post_attention_layernorm.weight"] = (hidden,)
        shapes[at + "mlp.gate_proj.weight"] = shapes[at + "mlp.up_proj.weight"] = (inner, hidden)
        shapes[at + "mlp.down_proj.weight"] = (hidden, inner)
    shapes["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    return shapes


def random_tensor(name: str, shape: tuple[int, ...], *, seed: int = 0, scale: float = 0.05) -> np.ndarray:
    """float32 normal values times ``scale``; around 1 for the norms' weights."""
    values = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(shape, dtype=np.float32)
    return values * np.float32(scale) + np.float32(1 if "norm" in name else 0)


def write_checkpoint(
    folder: Path,
    *,
    architecture: str,
    dtype: str = "float32",
    shards: int = 1,
    seed: int = 0,
    scale: float = 0.05,
    **shape: Any,
) -> dict[str, Any]:
    """Writes a Hugging Face folder (config, generation config, safetensors, tokenizer) and returns the config.

    ``shape`` holds the other arguments of :func:`model_config`: layers, hidden, heads, vocab, tied, …
    """
    config = model_config(architecture=architecture, dtype=dtype, **shape)
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", generation_config(config["vocab_size"]))
    write_tokenizer(folder, config["vocab_size"])
    write_weights(folder, tensor_shapes(config), dtype=dtype, shards=shards, seed=seed, scale=scale)
    return config


def generation_config(vocab: int = 288) -> dict[str, Any]:
    first = _first_special(vocab)
    return {
        "bos_token_id": first,
        "eos_token_id": [first + 2, first],
        "do_sample": True,
        "temperature": 0.7,
        "top_k": 20,
        "top_p": 0.8,
    }


def write_weights(
    folder: Path,
    shapes: dict[str, tuple[int, ...]],
    *,
    dtype: str = "float32",
    shards: int = 1,
    seed: int = 0,
    scale: float = 0.05,
) -> None:
    """model.safetensors, or ``shards`` files and model.safetensors.index.json; one tensor in memory at a time."""
    names = list(shapes)
    if shards == 1:
        _write_safetensors(folder / "model.safetensors", names, shapes, dtype, seed, scale)
        return
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = names[shard * len(names) // shards : (shard + 1) * len(names) // shards]
        weight_map.update(dict.fromkeys(part, file))
        _write_safetensors(folder / file, part, shapes, dtype, seed, scale)
    _write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})


def _write_safetensors(
    path: Path, names: Iterable[str], shapes: dict[str, tuple[int, ...]], dtype: str, seed: int, scale: float
) -> None:
    code, numpy_dtype = DTYPES[dtype]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        start, end = end, end + int(np.prod(shapes[name])) * np.dtype(numpy_dtype).itemsize
        header[name] = {"dtype": code, "shape": shapes[name], "data_offsets": [start, end]}
    with path.open("wb") as file:
        file.write(safetensors_header(header))
        for name in names:
            file.write(random_tensor(name, shapes[name], seed=seed, scale=scale).astype(numpy_dtype).tobytes())


def safetensors_header(header: dict[str, Any]) -> bytes:
    """The length and the JSON that open a safetensors file, padded so that the data starts at a multiple of 8."""
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def write_gguf(
    path: Path,
    *,
    architecture: str,
    quantization: str = "F32",
    output: str | None = None,
    seed: int = 0,
    scale: float = 0.05,
    pre: str | None = None,
    metadata: dict[str, int | float | str | bool] | None = None,
    extra: dict[str, np.ndarray] | None = None,
    **shape: Any,
) -> dict[str, Any]:
    """Writes a GGUF file with the weights :func:`write_checkpoint` would write, and returns the Hugging Face config.

    ``quantization`` (F32, F16, BF16, Q8_0, Q5_0, Q4_0, …) applies to the matrices; norms and biases stay float32.
    ``output`` adds a tied model's embedding again as output.weight, in that quantization.
    ``metadata`` and ``extra`` (tensors by llama.cpp's names) go into the file as they are.
    ``shape`` holds the arguments of :func:`model_config`; columns must be multiples of the quantization's block.
    """
    config = model_config(architecture=architecture, **shape)
    writer = gguf.GGUFWriter(path, architecture)
    _add_model_metadata(writer, config)
    _add_tokenizer(writer, config, pre or ("qwen2" if architecture.startswith("qwen") else "gpt-2"))
    for key, value in (metadata or {}).items():
        _add_value(writer, key, value)
    for name, shape_ in tensor_shapes(config).items():
        values = _as_llama_cpp_stores(name, random_tensor(name, shape_, seed=seed, scale=scale), config)
        _add_tensor(writer, gguf_name(name), values, quantization)
    if output is not None:
        name = "model.embed_tokens.weight"
        values = random_tensor(name, tensor_shapes(config)[name], seed=seed, scale=scale)
        _add_tensor(writer, "output.weight", values, output)
    for name, values in (extra or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return config


GGUF_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}


def gguf_name(name: str) -> str:
    """llama.cpp's name of a tensor: model.layers.3.mlp.up_proj.weight is blk.3.ffn_up.weight."""
    module, kind = name.rsplit(".", 1)
    if module.startswith("model.layers."):
        _, _, layer, module = module.split(".", 3)
        return f"blk.{layer}.{GGUF_NAMES[module]}.{kind}"
    return f"{GGUF_NAMES[module]}.{kind}"


def _as_llama_cpp_stores(name: str, values: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    """llama's q and k rows [head, half, i] go to [head, i, half], as llama.cpp's converter leaves them."""
    if config["model_type"] != "llama" or not name.endswith(("q_proj.weight", "k_proj.weight")):
        return values
    halves = values.reshape(-1, 2, config["head_dim"] // 2, values.shape[-1])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)


def _add_tensor(writer: gguf.GGUFWriter, name: str, values: np.ndarray, quantization: str) -> None:
    kind = gguf.GGMLQuantizationType[quantization if values.ndim > 1 else "F32"]
    writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)


def _add_model_metadata(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    if scaling := config["rope_scaling"]:
        writer.add_rope_scaling_type(gguf.RopeScalingType(scaling["rope_type"]))
        writer.add_rope_scaling_factor(scaling["factor"])
        writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])


def _add_tokenizer(writer: gguf.GGUFWriter, config: dict[str, Any], pre: str) -> None:
    vocabulary = config["vocab_size"]
    tokens = [*base_vocabulary(), *SPECIAL_TOKENS]
    first = len(tokens) - len(SPECIAL_TOKENS)
    kinds = [gguf.TokenType.NORMAL] * first + [gguf.TokenType.CONTROL] * len(SPECIAL_TOKENS)
    padding = range(len(tokens), vocabulary)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([*tokens, *(f"[PAD{token}]" for token in padding)])
    writer.add_token_types([*kinds, *(gguf.TokenType.UNUSED for _ in padding)])
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _add_value(writer: gguf.GGUFWriter, key: str, value: int | float | str | bool) -> None:
    kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    kinds[type(value)](key, value)


def base_vocabulary() -> list[str]:
    """The 256 byte characters, then what the merges make, in the order of their ids."""
    bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
    return [*bytes_, *dict.fromkeys(merge.replace(" ", "") for merge in MERGES)]


def write_tokenizer(folder: Path, vocab: int = 288) -> None:
    """tokenizer.json and tokenizer_config.json of a byte-level BPE tokenizer with a ChatML template."""
    tokens = base_vocabulary()
    _first_special(vocab)
    merges = [(left, right) for left, right in (merge.split(" ") for merge in MERGES)]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    (folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    settings = {
        "add_bos_token": False,
        "bos_token": None,
        "eos_token": SPECIAL_TOKENS[2],
        "pad_token": SPECIAL_TOKENS[0],
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": CHAT_TEMPLATE,
    }
    _write_json(folder / "tokenizer_config.json", settings)


def _first_special(vocab: int) -> int:
    """Id of <|endoftext|>; <|im_start|> and <|im_end|> follow."""
    first = len(base_vocabulary())
    least = first + len(SPECIAL_TOKENS)
    if vocab < least:
        raise ValueError(f"the test tokenizer needs a vocabulary of {least} at least, not {vocab}")
    return first


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
