"""Multiple choice: the prompts' words, and which option a model is said to choose, against whole feeds from scratch."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fake_executor import FakeExecutor
from support.tiny_tokenizer import tiny_backend

from vamc_py.evaluation.choices import answer, fitting_prompt, make_prompt
from vamc_py.evaluation.compare import log_softmax
from vamc_py.evaluation.questions import CEVAL, MMLU, Question, Style, Subject

VOCAB = 400
EXAMPLES = (Question("is it so", ("yes", "no", "say it", "think"), 3), Question("the sea?", ("a", "b", "c", "d"), 0))
QUESTIONS = tuple(Question(f"the answer is {n}", ("Paris", "42", f"again {n}", "user"), n % 4) for n in range(6))
SUBJECT = Subject("world_capitals", MMLU, QUESTIONS, EXAMPLES)


def test_the_words_of_a_prompt() -> None:
    tokenizer = tiny_backend()
    prompt = make_prompt(tokenizer, SUBJECT, QUESTIONS[1], 1)
    stated = (
        "The following are multiple choice questions (with answers) about world capitals.\n\n"
        "is it so\nA. yes\nB. no\nC. say it\nD. think\nAnswer: D\n\n"
        "the answer is 1\nA. Paris\nB. 42\nC. again 1\nD. user\nAnswer:"
    )
    whole = [tokenizer.decode([*prompt.tokens, *ending]) for ending in prompt.endings]
    assert whole == [f"{stated} {letter}" for letter in "ABCD"]
    assert tokenizer.decode(list(prompt.tokens[: prompt.shared])).endswith("Answer: D\n\n")
    chinese = make_prompt(tokenizer, replace(SUBJECT, style=CEVAL), QUESTIONS[0], 0)
    text = tokenizer.decode([*chinese.tokens, *chinese.endings[2]])
    assert text.startswith(
        "以下是中国关于world capitals考试的单项选择题，请选出其中的正确答案。\n\nthe answer is 0\nA. Paris"
    )
    assert text.endswith("\nD. user\n答案：C")


def plain_choice(executor: FakeExecutor, subject: Subject, question: Question, shots: int) -> int:
    """The best ending, each fed whole into an empty slot, a token at a time."""
    tokenizer = tiny_backend()
    prompt = make_prompt(tokenizer, subject, question, shots)
    scores = []
    for ending in prompt.endings:
        tokens = [*prompt.tokens, *ending]
        rows = log_softmax(np.stack([executor._logits(np.asarray(tokens[: i + 1])) for i in range(len(tokens))]))
        scores.append(sum(rows[i - 1, tokens[i]] for i in range(len(prompt.tokens), len(tokens))))
    return int(np.argmax(scores))


@settings(deadline=None, max_examples=20)
@given(
    shots=st.integers(0, 2), answer_word=st.sampled_from(["Answer:", "答案：", "say"]), space=st.sampled_from(["", " "])
)
def test_scores_against_whole_feeds(shots: int, answer_word: str, space: str) -> None:
    style = Style("about {subject}\n", answer_word, space)
    subjects = [replace(SUBJECT, style=style), replace(SUBJECT, name="other", style=style)]
    executor, other = FakeExecutor(VOCAB), FakeExecutor(VOCAB, choose=lambda history: 35)
    pair: Any = [executor, other]
    result = answer(pair, tiny_backend(), subjects, shots)
    chosen = [plain_choice(executor, subject, question, shots) for subject in subjects for question in QUESTIONS]
    others = [plain_choice(other, subject, question, shots) for subject in subjects for question in QUESTIONS]
    right = [question.answer for question in QUESTIONS] * 2
    assert [score.asked for score in result.scores] == [12, 12]
    assert result.scores[0].right == sum(a == b for a, b in zip(chosen, right, strict=True))
    assert result.scores[1].right == sum(a == b for a, b in zip(others, right, strict=True))
    assert result.scores[1].as_reference == sum(a == b for a, b in zip(chosen, others, strict=True))
    assert result.scores[0].agreement == 1
    assert {name: scores[0].asked for name, scores in result.by_subject.items()} == {"world_capitals": 6, "other": 6}
    assert (result.cut, result.left_out) == (0, 0)


def test_letters_of_several_tokens() -> None:
    """Without merges, "  A" is three tokens and the first two are the same: both belong to the prompt."""
    subject = replace(SUBJECT, style=Style("", "Answer", "  "))
    prompt = make_prompt(tiny_backend(), subject, QUESTIONS[0], 0)
    assert len({len(ending) for ending in prompt.endings}) == 1
    letters = {"ABCDEFGHIJ"[i]: tiny_backend().decode(list(e)) for i, e in enumerate(prompt.endings)}
    assert all(text.strip() == letter for letter, text in letters.items())


def test_examples_are_fed_once_a_subject() -> None:
    executor: Any = FakeExecutor(VOCAB)
    answer([executor], tiny_backend(), [SUBJECT], 2)
    prompts = [make_prompt(tiny_backend(), SUBJECT, question, 2) for question in QUESTIONS]
    assert len({prompt.tokens[: prompt.shared] for prompt in prompts}) == 1
    assert executor.computed == prompts[0].shared + sum(len(p.tokens) - p.shared for p in prompts)


def test_prompts_that_do_not_fit_get_fewer_examples() -> None:
    tokenizer = tiny_backend()
    lengths = [len(make_prompt(tokenizer, SUBJECT, QUESTIONS[0], shots).tokens) for shots in range(3)]
    for shots, length in enumerate(lengths):
        prompt = fitting_prompt(tokenizer, SUBJECT, QUESTIONS[0], 2, length)
        assert prompt is not None
        assert prompt.shots == shots
    assert fitting_prompt(tokenizer, SUBJECT, QUESTIONS[0], 2, lengths[0] - 1) is None
    executor: Any = FakeExecutor(VOCAB, context=lengths[1])
    long = Question("why " * 200, ("a", "b", "c", "d"), 0)
    result = answer([executor], tokenizer, [replace(SUBJECT, questions=(QUESTIONS[0], long))], 2)
    assert (result.scores[0].asked, result.cut, result.left_out) == (1, 1, 1)


def test_nothing_asked_has_no_accuracy() -> None:
    executor: Any = FakeExecutor(VOCAB, context=8)
    result = answer([executor], tiny_backend(), [SUBJECT], 0)
    assert result.left_out == len(QUESTIONS)
    assert math.isnan(result.scores[0].accuracy)


@pytest.mark.parametrize("wanted", range(4))
def test_a_model_that_says_one_letter(wanted: int) -> None:
    prompt = make_prompt(tiny_backend(), SUBJECT, QUESTIONS[0], 0)
    assert len(prompt.endings[wanted]) == 1
    executor: Any = FakeExecutor(VOCAB, choose=lambda history: prompt.endings[wanted][0])
    result = answer([executor], tiny_backend(), [SUBJECT], 0)
    assert result.scores[0].right == sum(question.answer == wanted for question in QUESTIONS)
