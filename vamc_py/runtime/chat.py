"""The checkpoint's own chat template, and what of a reply belongs in the history."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from vamc_py.errors import ArtifactError, UserError
from vamc_py.runtime.tokenizer import TOKENIZER_CONFIG_FILE, Tokenizer

TEMPLATE_FILE = "chat_template.jinja"
THINK_START = "<think>"
THINK_END = "</think>"

Message = Mapping[str, Any]  # "role" and "content", and whatever else the template reads


class ChatTemplate:
    """A jinja template as Hugging Face renders it, in a sandbox: it comes with the checkpoint and is not trusted.

    ``special_tokens`` are the names bos_token, eos_token, … that the template may use.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        self._special_tokens = dict(special_tokens)
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise ArtifactError(f"the chat template is wrong in line {error.lineno}: {error.message}") from None

    @classmethod
    def read(cls, folder: Path, tokenizer: Tokenizer) -> ChatTemplate | None:
        """The template of an artifact's tokenizer folder; None where the checkpoint has none.

        It is chat_template.jinja if that exists, else ``chat_template`` of tokenizer_config.json: a string, or a list
        of named templates, of which "default" is taken.
        """
        source = _template_file(folder / TEMPLATE_FILE) or tokenizer.config.get("chat_template")
        if isinstance(source, list) and all(isinstance(entry, dict) for entry in source):
            source = {entry.get("name"): entry.get("template") for entry in source}.get("default")
        if source is None:
            return None
        if not isinstance(source, str):
            raise ArtifactError(f"{folder / TOKENIZER_CONFIG_FILE}: chat_template must be a string")
        return cls(source, tokenizer.special_tokens)

    def render(self, messages: Sequence[Message], *, thinking: bool | None = None) -> str:
        """The prompt of a conversation, up to where the assistant's reply begins.

        ``thinking`` is the template's ``enable_thinking``; None leaves it undefined, which is the model's own default.
        What the template raises, on roles that do not alternate say, is a UserError.
        """
        values: dict[str, Any] = dict(self._special_tokens)
        if thinking is not None:
            values["enable_thinking"] = thinking
        messages = [dict(message) for message in messages]
        try:
            return self._template.render(
                messages=messages, tools=None, documents=None, add_generation_prompt=True, **values
            )
        except Exception as error:  # the template is the checkpoint's code: whatever it raises is its own fault
            raise UserError(f"the chat template does not take this conversation: {error}") from error


def without_thinking(reply: str, *, started: bool = False) -> str:
    """A reply without its thinking, as the history wants it.

    Thinking stands at the beginning, up to the first ``</think>``; without one the whole reply is thinking.
    ``started`` says that the prompt opened it already, so that the reply has no ``<think>`` of its own.
    """
    if not started and not reply.lstrip().startswith(THINK_START):
        return reply
    return reply.partition(THINK_END)[2].lstrip("\n")


def starts_thinking(prompt: str) -> bool:
    """Whether a rendered prompt ends in an open ``<think>``, as QwQ's does."""
    return prompt.rstrip().endswith(THINK_START)


def _template_file(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from None


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


class _GenerationBlock(Extension):
    """``{% generation %}`` marks the assistant's text for training; when rendering it is only its body."""

    tags = {"generation"}  # noqa: RUF012 - jinja's interface

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(style: str) -> str:
    return datetime.now().strftime(style)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja's own filter escapes HTML characters and sorts the keys; the models were trained without.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
