"""The checkpoint's tokenizer: text to ids, and ids to text piece by piece."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers

from vamc_py.errors import ArtifactError, UserError
from vamc_py.runtime.settings import read_json_object

TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"


class Tokenizer:
    """tokenizer.json and tokenizer_config.json of an artifact.

    ``config`` is tokenizer_config.json as read; ``special_tokens`` maps bos_token, eos_token, … to their text, without
    those that the checkpoint does not have.
    """

    def __init__(self, backend: tokenizers.Tokenizer, config: dict[str, Any]) -> None:
        # A file may carry the length limit and padding of a training run; a prompt has neither.
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self.config = config
        self.special_tokens = _special_tokens(config)

    @classmethod
    def read(cls, folder: Path) -> Tokenizer:
        """The tokenizer of an artifact's tokenizer folder; files missing or damaged are an ArtifactError."""
        path = folder / TOKENIZER_FILE
        if not path.is_file():
            raise ArtifactError(f"{path} is missing: compile the artifact again")
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise ArtifactError(f"{path} cannot be read as a tokenizer: {error}") from None
        return cls(backend, read_json_object(folder / TOKENIZER_CONFIG_FILE))

    @property
    def stop_ids(self) -> frozenset[int]:
        """The id of the end-of-sequence token, where there is one."""
        eos = self.token_id(self.special_tokens.get("eos_token"))
        return frozenset() if eos is None else frozenset({eos})

    def token_id(self, token: str | None) -> int | None:
        """The id of a token by its exact text."""
        return None if token is None else self._backend.token_to_id(token)

    def encode_rendered(self, text: str) -> list[int]:
        """Ids of a rendered chat template: special tokens in the text are parsed, none are added."""
        return self._encode(text, add_special_tokens=False)

    def encode_raw(self, text: str) -> list[int]:
        """Ids of a plain text with the special tokens that the tokenizer adds; bos first where add_bos_token says so.

        Special tokens that stand in the text are parsed as such, as Hugging Face does.
        """
        ids = self._encode(text, add_special_tokens=True)
        bos = self.token_id(self.special_tokens.get("bos_token"))
        if self.config.get("add_bos_token") is True and bos is not None and ids[:1] != [bos]:
            ids.insert(0, bos)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens; bytes that are no UTF-8 become U+FFFD."""
        return str(self._backend.decode(ids, skip_special_tokens=True))

    def stream(self) -> TextStream:
        """A decoder for ids that come one by one."""
        return TextStream(self)

    def _encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UserError(f"the text is not Unicode at character {error.start}: give it in UTF-8") from None
        return list(self._backend.encode(text, add_special_tokens=add_special_tokens).ids)


class TextStream:
    """Decodes ids one by one; the pieces together are exactly the decoded whole.

    A token may hold part of a character, and what a token decodes to may depend on the one before it. So a window of
    the last tokens is decoded with and without the new ones, and the difference is the new text, once it ends in a
    whole character.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._window: list[int] = []
        self._shown = 0  # tokens of the window whose text was given out …
        self._shown_text = ""  # … and that text

    def push(self, token: int) -> str:
        """The text that ``token`` completes; empty while a character is not whole."""
        self._window.append(token)
        text = self._tokenizer.decode(self._window)
        # U+FFFD at the end may be the beginning of a character.
        return "" if text.endswith("\ufffd") else self._advance(text)

    def flush(self) -> str:
        """The rest, when no token will come: half a character becomes U+FFFD."""
        return self._advance(self._tokenizer.decode(self._window))

    def _advance(self, text: str) -> str:
        piece = text[len(self._shown_text) :]
        if piece:
            self._window = self._window[self._shown :]
            self._shown = len(self._window)
            self._shown_text = self._tokenizer.decode(self._window)
        return piece


def _special_tokens(config: dict[str, Any]) -> dict[str, str]:
    found = {}
    for name in ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"):
        value = config.get(name)
        if isinstance(value, dict):  # a serialized AddedToken
            value = value.get("content")
        if value is None:
            continue
        if not isinstance(value, str):
            raise ArtifactError(f"{TOKENIZER_CONFIG_FILE}: {name} is {value!r}: it must be a string")
        found[name] = value
    return found
