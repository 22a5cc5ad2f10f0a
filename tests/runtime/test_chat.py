"""Chat templates as Hugging Face renders them, and what goes into the history."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.tiny_tokenizer import CONFIG, TEMPLATE, tiny_tokenizer, write_tokenizer

from vamc_py.errors import ArtifactError, UserError
from vamc_py.runtime.chat import ChatTemplate, starts_thinking, without_thinking
from vamc_py.runtime.tokenizer import Tokenizer

USER = {"role": "user", "content": "Hi <b> & ü"}
REPLY = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello"}
SYSTEM = {"role": "system", "content": "Be short."}
CONVERSATIONS: list[list[dict[str, Any]]] = [
    [USER],
    [SYSTEM, USER],
    [SYSTEM, USER, REPLY, {"role": "user", "content": "  and now?\n"}],
    [USER, REPLY],
]


def render(source: str, *messages: dict[str, Any], thinking: bool | None = None) -> str:
    return ChatTemplate(source, {"eos_token": "<|im_end|>"}).render(messages or [USER], thinking=thinking)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Any:
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("messages", CONVERSATIONS)
@pytest.mark.parametrize("thinking", [None, True, False])
def test_text_and_ids_are_those_of_transformers(
    reference: Any, messages: list[dict[str, Any]], thinking: bool | None
) -> None:
    arguments = {} if thinking is None else {"enable_thinking": thinking}
    expected = reference.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **arguments)
    assert render(TEMPLATE, *messages, thinking=thinking) == expected
    ids = reference.apply_chat_template(messages, add_generation_prompt=True, **arguments)
    assert tiny_tokenizer().encode_rendered(expected) == ids


FEATURES = [
    "{{ messages | tojson }} {{ messages | tojson(indent=2) }}",
    "{% for m in messages %}\n  {% if loop.index0 > 0 %}{% break %}{% endif %}\n{{ m.content }}\n{% endfor %}",
    "{% generation %}{% set x = 1 %}{{ messages[0].content }}{% endgeneration %}{{ x is defined }}",
    "{{ tools is none }} {{ documents is none }} {{ enable_thinking is defined }} {{ bos_token is defined }}",
    "{{ pad_token }}{{ eos_token }}{{ strftime_now('%Y') | length }}",
    "{% set n = namespace(x=1) %}{% set n.x = 2 %}{{ n.x }}{{ '{:>5}'.format(messages[0].role) }}",
]


@pytest.mark.parametrize("source", FEATURES)
def test_the_language_is_that_of_transformers(reference: Any, source: str) -> None:
    expected = reference.apply_chat_template([USER, REPLY], chat_template=source, tokenize=False)
    template = ChatTemplate(source, tiny_tokenizer().special_tokens)
    assert template.render([USER, REPLY]) == expected


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[0].content.nothing.more }}", "no attribute"),
        ("{{ messages[0].content + 1 }}", "str"),
        ("{{ messages.append(1) }}", "unsafe|not safe"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{{ 1 // 0 }}", "zero"),
    ],
)
def test_faults_of_a_template(source: str, fault: str) -> None:
    with pytest.raises(UserError, match=rf"chat template does not take this conversation: .*({fault})"):
        render(source)


def test_a_template_that_is_no_jinja() -> None:
    with pytest.raises(ArtifactError, match="wrong in line 2"):
        render("fine\n{% if %}")


def test_where_the_template_is_found(tmp_path: Path) -> None:
    def found(**config: Any) -> str | None:
        write_tokenizer(tmp_path, config={**CONFIG, **config})
        template = ChatTemplate.read(tmp_path, Tokenizer.read(tmp_path))
        return None if template is None else template.render([USER])

    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    assert found(chat_template="A{{ eos_token }}") == "A<|im_end|>"
    assert found(chat_template=named) == "D"
    assert found(chat_template=None) is None
    assert found(chat_template=named[:1]) is None
    with pytest.raises(ArtifactError, match="chat_template must be a string"):
        found(chat_template=3)
    with pytest.raises(ArtifactError, match="chat_template must be a string"):
        found(chat_template=["D"])
    (tmp_path / "chat_template.jinja").write_text("F", encoding="utf-8")
    assert found(chat_template="A") == "F"
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(ArtifactError, match=r"chat_template\.jinja cannot be read"):
        found()


@pytest.mark.parametrize(
    ("reply", "started", "kept"),
    [
        ("Hello", False, "Hello"),
        ("<think>\nhm\n</think>\n\nHello", False, "Hello"),
        ("\n<think>a</think>b</think>c", False, "b</think>c"),
        ("<think>\nnever done", False, ""),
        ("hm\n</think>\n\nHello", True, "Hello"),
        ("never done", True, ""),
        ("the tag <think> and </think>", False, "the tag <think> and </think>"),
    ],
)
def test_thinking_is_no_part_of_the_history(reply: str, started: bool, kept: str) -> None:
    assert without_thinking(reply, started=started) == kept


def test_a_prompt_may_open_the_thinking() -> None:
    assert starts_thinking("<|im_start|>assistant\n<think>\n")
    assert not starts_thinking("<|im_start|>assistant\n<think>\n\n</think>\n\n")
