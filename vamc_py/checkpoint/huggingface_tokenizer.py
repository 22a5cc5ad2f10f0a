"""The tokenizer files of a Hugging Face folder, brought into one form."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from vamc_py.checkpoint.base import write_json
from vamc_py.checkpoint.jsonfile import read_json_object, read_text
from vamc_py.errors import CheckpointError

# In this order the template is looked for, as transformers does.
TOKENIZER_FILES = ("chat_template.jinja", "tokenizer_config.json", "chat_template.json", "tokenizer.json")


def save_tokenizer(source: Path, folder: Path) -> None:
    """Copies tokenizer.json and writes tokenizer_config.json with the chat template inside."""
    tokenizer = source / "tokenizer.json"
    if not tokenizer.is_file():
        hint = "save it with transformers: AutoTokenizer.from_pretrained(folder, use_fast=True).save_pretrained(folder)"
        raise CheckpointError(f"{source} has no tokenizer.json; {hint}")
    text = read_text(tokenizer)
    load_tokenizer(text, tokenizer)
    settings_file = source / "tokenizer_config.json"
    settings = read_json_object(settings_file) if settings_file.is_file() else {}
    template = _chat_template(source)
    if template is not None:
        settings["chat_template"] = template
    (folder / "tokenizer.json").write_text(text, encoding="utf-8", newline="")
    write_json(folder / "tokenizer_config.json", settings)


def load_tokenizer(text: str, path: Path) -> Tokenizer:
    """The tokenizer in ``text``, which came from ``path``; CheckpointError when the library refuses it."""
    try:
        return Tokenizer.from_str(text)
    except Exception as error:
        if type(error) is not Exception:  # what the library raises for a bad file is a bare Exception
            raise
        raise CheckpointError(f"{path} is no tokenizer: {error}; fetch the file again") from error


def _chat_template(source: Path) -> object:
    """The template outside tokenizer_config.json that counts, or None; a list of named templates stays a list."""
    jinja = source / "chat_template.jinja"
    if jinja.is_file():
        return read_text(jinja)
    settings = source / "tokenizer_config.json"
    if settings.is_file() and read_json_object(settings).get("chat_template") is not None:
        return None
    alone = source / "chat_template.json"
    return read_json_object(alone).get("chat_template") if alone.is_file() else None
