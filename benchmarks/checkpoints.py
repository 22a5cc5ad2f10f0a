"""The models to compare on: Hugging Face folders that every engine converts, random or from a GGUF file."""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from benchmarks.shape import ModelShape
from vamc_py.checkpoint import open_checkpoint
from vamc_py.errors import UserError
from vamc_py.progress import track

_QWEN3_06 = ModelShape(
    layers=28,
    hidden=1024,
    intermediate=3072,
    heads=16,
    kv_heads=8,
    head_dim=128,
    vocabulary=151936,
)
RANDOM_MODELS = {
    "qwen3-0.6b": _QWEN3_06,
    "qwen3-1.7b": replace(_QWEN3_06, hidden=2048, intermediate=6144),
}
_CODES = {"BF16": ml_dtypes.bfloat16, "F16": np.float16}
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
_SEED = 0

Rows = npt.NDArray[Any]


@dataclass(frozen=True)
class ModelChoice:
    """A value of the option --model: NAME (of RANDOM_MODELS) or NAME=PATH (a Hugging Face folder or a GGUF file)."""

    name: str
    path: Path | None

    @classmethod
    def parse(cls, text: str) -> ModelChoice:
        """UserError for a name without a path that is no random model, and for a path that is not there."""
        name, _, path = text.partition("=")
        if not name or "/" in name:
            raise UserError(f"--model {text}: write NAME=PATH; the name is for folders and tables")
        if path:
            if not Path(path).exists():
                raise UserError(f"--model {text}: {path} is not there")
            return cls(name, Path(path).resolve())
        if name not in RANDOM_MODELS:
            known = ", ".join(RANDOM_MODELS)
            raise UserError(f"--model {text}: without a path the name is one of {known}; else write NAME=PATH")
        return cls(name, None)

    def folder(self, made: Path, tokenizer: Path | None) -> Path:
        """The Hugging Face folder; what has to be made lies in ``made``, once."""
        if self.path is not None and self.path.is_dir():
            return self.path
        folder = made / self.name
        if not folder.is_dir():
            partial = made / f".{self.name}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            if self.path is None:
                write_random(partial, RANDOM_MODELS[self.name], tokenizer)
            else:
                write_from_gguf(partial, self.path)
            partial.rename(folder)
        return folder


def write_random(folder: Path, shape: ModelShape, tokenizer: Path | None) -> None:
    """A bfloat16 Qwen3 checkpoint of normal numbers with a deviation of 0.02, the same ones for the same shape.

    ``tokenizer``: a folder with Qwen3's tokenizer.json and tokenizer_config.json; None writes one of as many tokens.
    """
    if tokenizer is None:
        write_tokenizer(folder, shape.vocabulary)
    else:
        copy_tokenizer(tokenizer, folder)
    end = _end_token(folder)
    write_json(folder / "config.json", random_config(shape, end))
    write_json(folder / "generation_config.json", {"eos_token_id": [end], "do_sample": False})
    tensors = tensor_shapes(shape)
    names = track(tensors, "random weights")
    write_safetensors(
        folder / "model.safetensors", "BF16", tensors, ((name, _random(name, tensors[name])) for name in names)
    )


def write_from_gguf(folder: Path, path: Path) -> None:
    """The model of a GGUF file, dequantized to float16, with its tokenizer and chat template."""
    checkpoint = open_checkpoint(str(path), "gguf")
    write_json(folder / "config.json", {**checkpoint.config, "torch_dtype": "float16"})
    write_json(folder / "generation_config.json", checkpoint.generation_config)
    checkpoint.save_tokenizer(folder)
    shapes = {name: info.shape for name, info in checkpoint.tensors.items()}
    read = ((name, checkpoint.read(name)) for name in track(shapes, "dequantizing"))
    write_safetensors(folder / "model.safetensors", "F16", shapes, read)


def random_config(shape: ModelShape, end: int) -> dict[str, Any]:
    """config.json of a Qwen3 model, its embedding tied to the lm_head."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocabulary,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000,
        "rope_scaling": None,
        "max_position_embeddings": 40960,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
        "use_cache": True,
        "use_sliding_window": False,
        "sliding_window": None,
        "eos_token_id": end,
        "torch_dtype": "bfloat16",
    }


def tensor_shapes(shape: ModelShape) -> dict[str, tuple[int, ...]]:
    """Every tensor of a Qwen3 model with a tied lm_head, by its Hugging Face name."""
    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    layer: dict[str, tuple[int, ...]] = {
        "input_layernorm": (shape.hidden,),
        "self_attn.q_proj": (query, shape.hidden),
        "self_attn.k_proj": (key, shape.hidden),
        "self_attn.v_proj": (key, shape.hidden),
        "self_attn.o_proj": (shape.hidden, query),
        "self_attn.q_norm": (shape.head_dim,),
        "self_attn.k_norm": (shape.head_dim,),
        "post_attention_layernorm": (shape.hidden,),
        "mlp.gate_proj": (shape.intermediate, shape.hidden),
        "mlp.up_proj": (shape.intermediate, shape.hidden),
        "mlp.down_proj": (shape.hidden, shape.intermediate),
    }
    layers = {f"model.layers.{i}.{name}.weight": size for i in range(shape.layers) for name, size in layer.items()}
    return {
        "model.embed_tokens.weight": (shape.vocabulary, shape.hidden),
        **layers,
        "model.norm.weight": (shape.hidden,),
    }


def _random(name: str, shape: tuple[int, ...]) -> Rows:
    """Normal numbers from a stream of the tensor's own; around 1 for the norms' weights."""
    random = np.random.default_rng([_SEED, zlib.crc32(name.encode())])
    values = random.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
    return values + np.float32("norm" in name)


def write_safetensors(
    path: Path, code: str, shapes: Mapping[str, tuple[int, ...]], tensors: Iterable[tuple[str, Rows]]
) -> None:
    """One file of ``tensors``, which come in the order of ``shapes``; one of them in memory at a time.

    ``code``: BF16 or F16, to which the values are rounded.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": code, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, values in tensors:
            file.write(values.astype(_CODES[code]).tobytes())


def write_tokenizer(folder: Path, vocabulary: int) -> None:
    """A byte-level tokenizer of ``vocabulary`` tokens, so that every id has a text; texts become single bytes.

    The tokens beyond the 256 bytes are made-up words that no merge leads to. The last ones end a text.
    """
    words = vocabulary - 256 - len(_SPECIAL)
    if words < 0:
        raise UserError(f"a vocabulary of {vocabulary} tokens is too small for a tokenizer of bytes")
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(f"Ġword{number}" for number in range(words))]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in _SPECIAL])
    (folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": _SPECIAL[2], "pad_token": _SPECIAL[0]}
    write_json(folder / "tokenizer_config.json", settings)


def copy_tokenizer(source: Path, folder: Path) -> None:
    """tokenizer.json and tokenizer_config.json of another folder; UserError where one is missing."""
    for name in _TOKENIZER_FILES:
        if not (source / name).is_file():
            raise UserError(
                f"--tokenizer {source}: {name} is not there; give a folder of Qwen3, or leave the option out"
            )
        shutil.copyfile(source / name, folder / name)


def _end_token(folder: Path) -> int:
    """The id of the tokenizer's end token."""
    name = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("eos_token")
    text = name["content"] if isinstance(name, dict) else name
    found = Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id(str(text))
    if found is None:
        raise UserError(f"{folder}: tokenizer.json does not know the eos_token {text!r} of tokenizer_config.json")
    return int(found)


def write_json(path: Path, content: object) -> None:
    """UTF-8 with a newline at the end."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
