"""The generation loop on a model that is made up: what it streams, why it ends, what the cache saves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fake_executor import FakeExecutor, script
from support.tiny_tokenizer import END, TEMPLATE, tiny_backend, tiny_tokenizer, write_tokenizer

from vamc_py.errors import ArtifactError, UserError
from vamc_py.runtime import generate
from vamc_py.runtime.chat import ChatTemplate
from vamc_py.runtime.model import Model
from vamc_py.runtime.settings import GenerationConfig, SamplingSettings

TOKENIZER = tiny_tokenizer()
VOCAB = tiny_backend().get_vocab_size()
NO_DEFAULTS = GenerationConfig(SamplingSettings(greedy=True), frozenset())


def model_of(executor: FakeExecutor, defaults: GenerationConfig = NO_DEFAULTS, template: str = TEMPLATE) -> Model:
    return Model(executor, TOKENIZER, ChatTemplate(template, TOKENIZER.special_tokens), defaults)


def model_that_says(text: str, prompt: str, **executor: Any) -> Model:
    """A model that continues ``prompt`` with ``text``."""
    output = [*TOKENIZER.encode_rendered(text), *[0] * 500]
    return model_of(FakeExecutor(VOCAB, choose=script(output, len(TOKENIZER.encode_raw(prompt))), **executor))


def test_streams_until_the_stop_id() -> None:
    model = model_that_says(f"naïve 🙂 answer{END}more", "Hi")
    reply = model.generate("Hi")
    pieces = list(reply)
    result = reply.result()
    assert "".join(pieces) == result.text == "naïve 🙂 answer"
    assert pieces == ["naïve", " 🙂", " answer"]
    assert result.finish_reason == "stop"
    assert result.output_ids[-1] == TOKENIZER.token_id(END)
    assert TOKENIZER.decode(result.output_ids) == result.text


def test_every_stop_id_of_the_generation_config_ends_the_text() -> None:
    other = TOKENIZER.token_id("t")
    assert other is not None
    model = model_that_says("Paris sun tea", "Hi")
    model.stop_ids |= {other}
    ids = TOKENIZER.encode_rendered("Paris sun tea")
    result = model.generate("Hi").result()
    assert result.finish_reason == "stop"
    assert result.output_ids == tuple(ids[: ids.index(other) + 1])
    assert result.text == TOKENIZER.decode(ids[: ids.index(other)])  # an ordinary token too is left out


def test_max_new_tokens() -> None:
    result = model_that_says("a b c d e f", "Hi").generate("Hi", max_new_tokens=3).result()
    assert result.finish_reason == "length"
    assert len(result.output_ids) == 3
    assert result.text == TOKENIZER.decode(result.output_ids)


def test_length_within_a_character_shows_what_there_is() -> None:
    result = model_that_says("𝄞", "Hi").generate("Hi", max_new_tokens=2).result()
    assert result.text == "\ufffd"


@pytest.mark.parametrize("stop", ["42; th", "is 42", "r is 42;"])
def test_stop_strings_cross_the_borders_of_tokens(stop: str) -> None:
    text = "so the answer is 42; think"
    result = model_that_says(text, "Hi").generate("Hi", stop=[stop, "never"]).result()
    assert result.text == text[: text.index(stop)]
    assert result.finish_reason == "stop"


def test_text_held_back_for_a_stop_string_comes_in_the_end() -> None:
    assert model_that_says(f"wait STO{END}", "Hi").generate("Hi", stop="STOP").result().text == "wait STO"


def test_the_context_ends_the_text() -> None:
    model = model_of(FakeExecutor(VOCAB, context=20, choose=lambda history: 65))
    prompt = [5] * 18
    result = model.generate(prompt).result()
    assert result.finish_reason == "context"
    assert len(result.output_ids) == 3  # at positions 18 and 19, and the one after them, which needs no position
    assert model.generate([5] * 20).result().finish_reason == "context"
    assert model.generate([5] * 20, max_new_tokens=1).result().finish_reason == "length"


@pytest.mark.parametrize(
    ("prompt", "fault"),
    [
        ("", "the prompt is empty"),
        ([3] * 21, "21 tokens, but the context holds 20"),
        ([0, -1], "token -1 of the prompt"),
        ([0, VOCAB], f"token {VOCAB} of the prompt"),
    ],
)
def test_prompts_that_cannot_be_run(prompt: str | Sequence[int], fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        model_of(FakeExecutor(VOCAB, context=20)).generate(prompt)


def test_timings_count_tokens() -> None:
    model = model_that_says(f"and on{END}", "Hi")
    first = model.generate("Hi").result().timings
    assert (first.prompt_tokens, first.cached_tokens) == (len(TOKENIZER.encode_raw("Hi")), 0)
    assert first.prefill_s > 0
    assert first.decode_tokens == len(TOKENIZER.encode_rendered(f"and on{END}")) - 1
    assert first.decode_tokens_per_s == pytest.approx(first.decode_tokens / first.decode_s)
    assert model.generate("Hi").result().timings.cached_tokens == first.prompt_tokens - 1
    assert model.generate("Hi", max_new_tokens=1).result().timings.decode_tokens_per_s is None


def test_the_next_step_has_begun_when_a_piece_comes() -> None:
    executor = FakeExecutor(VOCAB)
    reply = model_of(executor).generate([1, 2, 3], max_new_tokens=3)
    assert executor.computed == 0
    tokens = reply._tokens()
    computed = []
    for _ in tokens:
        computed.append(executor.computed)
    assert computed == [4, 5, 5]  # nothing follows the last token


def test_nothing_is_computed_behind_a_stop_id() -> None:
    model = model_that_says(f"and on{END}", "Hi")
    result = model.generate("Hi").result()
    assert model.executor.computed == result.timings.prompt_tokens + len(result.output_ids) - 1


def test_a_step_in_vain_behind_a_stop_string_does_not_spoil_the_cache() -> None:
    prompt = [1, 2, 3]
    whole = model_of(FakeExecutor(VOCAB)).generate(prompt, max_new_tokens=12).result()
    model = model_of(FakeExecutor(VOCAB))
    stopped = model.generate(prompt, stop=whole.text[2:5]).result()
    assert stopped.finish_reason == "stop"
    assert model.executor.computed == len(prompt) + len(stopped.output_ids)  # of which one in vain
    assert model.generate(prompt, max_new_tokens=12).result().output_ids == whole.output_ids
    other = [*prompt, *stopped.output_ids, 7, 5]
    expected = model_of(FakeExecutor(VOCAB)).generate(other, max_new_tokens=3).result().output_ids
    assert model.generate(other, max_new_tokens=3).result().output_ids == expected


def test_a_fault_comes_with_the_piece_that_it_prevents() -> None:
    class Failing(FakeExecutor):
        def feed(self, tokens: Sequence[int], *, slot: int, start: int) -> np.ndarray[Any, np.dtype[np.float32]]:
            if start == 5:
                raise RuntimeError("the step at position 5")
            return super().feed(tokens, slot=slot, start=start)

    reply = model_of(Failing(VOCAB, choose=lambda history: 65)).generate([1, 2, 3])
    pieces = [next(reply), next(reply), next(reply)]  # positions 3, 4 and 5; the last one's step is the one that fails
    assert all(pieces)
    with pytest.raises(RuntimeError, match="the step at position 5"):
        next(reply)


def test_the_clock_counts_steps_and_sampling_and_not_the_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0

    def pass_time(seconds: float) -> None:
        nonlocal clock
        clock += seconds

    class Timed(FakeExecutor):
        def feed(self, tokens: Sequence[int], *, slot: int, start: int) -> np.ndarray[Any, np.dtype[np.float32]]:
            pass_time(2.0)
            return super().feed(tokens, slot=slot, start=start)

    class TimedSampler(generate.Sampler):
        def sample(self, logits: np.ndarray[Any, np.dtype[np.float32]]) -> int:
            pass_time(0.5)
            return super().sample(logits)

    monkeypatch.setattr(generate.time, "perf_counter", lambda: clock)
    monkeypatch.setattr(generate, "Sampler", TimedSampler)
    reply = model_of(Timed(VOCAB, choose=lambda history: 65)).generate([1, 2, 3], max_new_tokens=4)
    for _ in reply:
        pass_time(100.0)
    timings = reply.result().timings
    assert (timings.prefill_s, timings.decode_s) == (2.5, 3 * 2.5)


def test_a_generation_given_up_has_no_result() -> None:
    reply = model_that_says("and on", "Hi").generate("Hi")
    next(reply)
    reply.close()
    assert list(reply) == []
    with pytest.raises(RuntimeError, match="given up"):
        reply.result()


prompts = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12), min_size=1, max_size=6)


@given(prompts, st.integers(0, 2**31))
@settings(deadline=None)
def test_reuse_of_the_cache_changes_nothing(texts: list[list[int]], seed: int) -> None:
    """Prompts over few tokens share beginnings; each must say what a fresh model says."""
    shared = model_of(FakeExecutor(8, context=40))
    for prompt in texts:
        fresh = model_of(FakeExecutor(8, context=40))
        options = {"seed": seed, "max_new_tokens": 6, "repetition_penalty": 1.2, "presence_penalty": 0.3}
        expected = fresh.generate(prompt, **options).result()  # type: ignore[arg-type]
        result = shared.generate(prompt, **options).result()  # type: ignore[arg-type]
        assert result.output_ids == expected.output_ids


def test_reuse_saves_work_and_recomputes_the_last_token() -> None:
    executor = FakeExecutor(8)
    model = model_of(executor)
    model.generate([1, 2, 3, 4, 5], max_new_tokens=1).result()
    executor.computed = 0
    model.generate([1, 2, 3, 7, 5], max_new_tokens=1).result()
    assert executor.computed == 2
    model.generate([1, 2, 3, 7, 5], max_new_tokens=1).result()
    assert executor.computed == 3


def test_generations_may_be_read_by_turns() -> None:
    executor = FakeExecutor(VOCAB, context=64)
    alone = [model_of(executor).generate(prompt, max_new_tokens=8).result() for prompt in ([1, 2], [1, 3])]
    model = model_of(executor)
    replies = [model.generate(prompt, max_new_tokens=8) for prompt in ([1, 2], [1, 3])]
    while not all(reply.finished for reply in replies):
        for reply in replies:
            next(reply, None)
    assert [reply.result().output_ids for reply in replies] == [result.output_ids for result in alone]


def test_an_interrupted_step_does_not_spoil_the_cache() -> None:
    class Interrupted(FakeExecutor):
        now = False

        def feed(self, tokens: Sequence[int], *, slot: int, start: int) -> np.ndarray[Any, np.dtype[np.float32]]:
            logits = super().feed(tokens, slot=slot, start=start)
            if self.now:
                raise KeyboardInterrupt  # after the cache was written
            return logits

    executor = Interrupted(VOCAB)
    model = model_of(executor)
    expected = model.generate([1, 2, 3, 4], max_new_tokens=9).result()
    executor.now = True
    with pytest.raises(KeyboardInterrupt):
        model.generate([1, 7, 7, 7, 7], max_new_tokens=9).result()
    executor.now = False
    assert model.generate([1, 2, 3, 4], max_new_tokens=9).result().output_ids == expected.output_ids


def test_the_generation_config_gives_the_defaults(tmp_path: Path) -> None:
    write_tokenizer(
        tmp_path,
        generation={"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": None, "eos_token_id": [7, 9]},
    )
    config = GenerationConfig.read(tmp_path / "generation_config.json")
    assert config.settings == SamplingSettings(temperature=0.6, top_k=20)
    assert config.stop_ids == {7, 9}
    model = model_of(FakeExecutor(VOCAB), config)
    assert model.stop_ids == {7, 9, TOKENIZER.token_id(END)}
    assert model.settings(top_k=3, stop="x") == SamplingSettings(temperature=0.6, top_k=3, stop=("x",))
    write_tokenizer(tmp_path, generation={"temperature": 0.6, "eos_token_id": 3, "stop_strings": "###"})
    config = GenerationConfig.read(tmp_path / "generation_config.json")
    assert config.settings == SamplingSettings(greedy=True, temperature=0.6, stop=("###",))
    assert config.stop_ids == {3}


@pytest.mark.parametrize("raw", [{"top_p": 2}, {"eos_token_id": "x"}, {"eos_token_id": [True]}, {"stop_strings": [1]}])
def test_a_wrong_generation_config_is_named(tmp_path: Path, raw: dict[str, Any]) -> None:
    write_tokenizer(tmp_path, generation=raw)
    with pytest.raises(ArtifactError, match=r"generation_config\.json: "):
        GenerationConfig.read(tmp_path / "generation_config.json")


def test_a_model_without_template_says_what_to_do() -> None:
    model = Model(FakeExecutor(VOCAB), TOKENIZER, None, NO_DEFAULTS)
    with pytest.raises(UserError, match=r"no chat template.*--raw"):
        model.chat("Hi")
    assert model.generate("Hi", max_new_tokens=1).result().output_ids


def test_chat_renders_system_and_thinking() -> None:
    model = model_of(FakeExecutor(VOCAB))
    reply = model.chat("Hi", system="Be short.", thinking=False)
    rendered = (
        "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    assert reply.prompt_tokens == len(TOKENIZER.encode_rendered(rendered))
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi"}]
    assert model.chat(messages, thinking=False).prompt_tokens == reply.prompt_tokens
