"""Several turns over one cache."""

from __future__ import annotations

import pytest
from support.fake_executor import FakeExecutor
from support.tiny_tokenizer import END, TEMPLATE, tiny_backend, tiny_tokenizer

from vamc_py.errors import UserError
from vamc_py.runtime.chat import ChatTemplate
from vamc_py.runtime.model import Model
from vamc_py.runtime.settings import GenerationConfig, SamplingSettings

TOKENIZER = tiny_tokenizer()
VOCAB = tiny_backend().get_vocab_size()
ASSISTANT = TOKENIZER.encode_rendered("<|im_start|>assistant\n")


class Parrot(FakeExecutor):
    """Says the same text after every generation prompt."""

    def __init__(self, text: str, context: int = 512) -> None:
        super().__init__(VOCAB, context, choose=self._next)
        self._text = [*TOKENIZER.encode_rendered(text), TOKENIZER.token_id(END) or 0]

    def _next(self, history: list[int]) -> int:
        starts = [i for i in range(len(history)) if history[i : i + len(ASSISTANT)] == ASSISTANT]
        said = len(history) - starts[-1] - len(ASSISTANT)
        return self._text[min(said, len(self._text) - 1)]


def model_of(executor: FakeExecutor, template: str = TEMPLATE) -> Model:
    defaults = GenerationConfig(SamplingSettings(greedy=True), frozenset())
    return Model(executor, TOKENIZER, ChatTemplate(template, TOKENIZER.special_tokens), defaults)


def test_the_history_has_no_thinking_and_the_cache_is_reused() -> None:
    executor = Parrot("<think>\nhm, let me see\n</think>\n\nParis.")
    talk = model_of(executor).conversation(system="Be short.")
    first = talk.say("Where?").result()
    assert first.text == "<think>\nhm, let me see\n</think>\n\nParis."
    assert talk.messages == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Where?"},
        {"role": "assistant", "content": "Paris."},
    ]
    executor.computed = 0
    reply = talk.say("Sure?")
    second = reply.result()
    # What was rendered before is in the cache up to the first turn's reply, where the thinking is gone.
    assert second.timings.cached_tokens == first.timings.prompt_tokens
    assert executor.computed == reply.prompt_tokens - first.timings.prompt_tokens + second.timings.decode_tokens


def test_reuse_says_what_a_fresh_model_says() -> None:
    talk = model_of(FakeExecutor(VOCAB)).conversation(max_new_tokens=12)
    for message in ("a", "b", "c"):
        messages = [*talk.messages, {"role": "user", "content": message}]
        fresh = model_of(FakeExecutor(VOCAB)).chat(messages, max_new_tokens=12)
        assert talk.say(message).result().output_ids == fresh.result().output_ids


def test_thinking_that_the_prompt_opens_is_no_part_of_the_history() -> None:
    opening = TEMPLATE.replace("assistant\\n' }}", "assistant\\n<think>\\n' }}")
    assert opening != TEMPLATE
    # The parrot counts from "assistant\\n" on, so the first tokens of its text are the prompt's own.
    talk = model_of(Parrot("<think>\nhm</think>\n\nYes"), opening).conversation()
    assert talk.say("Really?").result().text == "hm</think>\n\nYes"
    assert talk.messages[-1] == {"role": "assistant", "content": "Yes"}


def test_a_context_that_is_full_leaves_the_history() -> None:
    talk = model_of(Parrot("Paris.", context=40)).conversation()
    talk.say("a").result()
    before = list(talk.messages)
    with pytest.raises(UserError, match=r"the conversation has \d+ tokens .* the context holds 40: .*/reset"):
        talk.say("Paris is the capital " * 9)
    assert talk.messages == before
    assert talk.say("b").result().text == "Paris."
    talk.reset()
    assert talk.messages == []


def test_a_reply_that_is_given_up_is_forgotten() -> None:
    talk = model_of(Parrot("a long reply")).conversation()
    first = talk.say("one")
    next(first)
    second = talk.say("two")
    assert list(first) == []
    assert talk.messages == []
    second.result()
    assert [message["content"] for message in talk.messages] == ["two", "a long reply"]


def test_one_seed_gives_one_conversation_but_not_one_reply() -> None:
    def replies() -> list[str]:
        talk = model_of(FakeExecutor(VOCAB)).conversation(seed=4, max_new_tokens=10)
        texts = [talk.say("a").result().text]
        talk.messages.clear()
        texts.append(talk.say("a").result().text)
        talk.reset()
        return [*texts, talk.say("a").result().text]

    first, again, after_reset = replies()
    assert [first, again, after_reset] == replies()
    assert first == after_reset != again
