"""A small byte-level BPE tokenizer with Qwen's special tokens and a chat template in its manner."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from vamc_py.runtime.tokenizer import Tokenizer

END = "<|im_end|>"
TEXT_END = "<|endoftext|>"

_TEXTS = [
    "Paris is the capital of France, and a stop on the way to the sea.",
    "the answer is 42; think it over, then say it again and again",
    "user assistant system think: über größer 你好世界 🙂🚀 naïve café",
]

# Own words, but the shape of Qwen3's: thinking of earlier turns is dropped, enable_thinking=false closes it at once.
TEMPLATE = """\
{%- set last = namespace(user=-1) %}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {%- set last.user = loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- if last.user < 0 %}
    {{- raise_exception('no message of the user') }}
{%- endif %}
{%- if tools %}
    {{- '<|im_start|>system\\n' + tools | tojson + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- set text = message.content %}
    {%- if message.role == 'assistant' and '</think>' in text and loop.index0 < last.user %}
        {%- set text = text.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + text + eos_token + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""

CONFIG: dict[str, Any] = {
    "add_bos_token": False,
    "bos_token": None,
    "eos_token": {"__type": "AddedToken", "content": END},
    "pad_token": TEXT_END,
    "chat_template": TEMPLATE,
    "tokenizer_class": "PreTrainedTokenizerFast",
}


@cache
def _serialized() -> str:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=384, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(_TEXTS, trainer)
    backend.add_special_tokens([TEXT_END, "<|im_start|>", END])
    backend.add_tokens(["<think>", "</think>"])
    return backend.to_str()


def tiny_backend() -> tokenizers.Tokenizer:
    """A fresh copy, so that a test may change it."""
    return tokenizers.Tokenizer.from_str(_serialized())


def tiny_tokenizer(**config: Any) -> Tokenizer:
    """The tokenizer with entries of its config replaced."""
    return Tokenizer(tiny_backend(), {**CONFIG, **config})


def write_tokenizer(
    folder: Path, *, config: dict[str, Any] | None = None, generation: dict[str, Any] | None = None
) -> None:
    """Write an artifact's tokenizer folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(_serialized(), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(CONFIG if config is None else config), encoding="utf-8")
    (folder / "generation_config.json").write_text(json.dumps(generation or {}), encoding="utf-8")
