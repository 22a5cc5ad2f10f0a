"""Multiple choice by log-likelihood: the option whose letter a model finds most likely behind the question."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import tokenizers

from vamc_py.evaluation.compare import log_softmax
from vamc_py.evaluation.questions import LETTERS, Question, Subject
from vamc_py.progress import track
from vamc_py.runtime.executor import Executor


@dataclass(frozen=True)
class Prompt:
    """A question as tokens; the first ``shared`` of them come from the subject's intro and examples."""

    tokens: tuple[int, ...]
    endings: tuple[tuple[int, ...], ...]  # of each option: the tokens of its letter
    shared: int
    shots: int  # examples in it


@dataclass
class Score:
    """What one model answered."""

    asked: int = 0
    right: int = 0
    as_reference: int = 0  # answers like the reference's, right or wrong

    @property
    def accuracy(self) -> float:
        """Share of right answers; nan where nothing was asked."""
        return self.right / self.asked if self.asked else float("nan")

    @property
    def agreement(self) -> float:
        """Share of answers like the reference's; nan where nothing was asked."""
        return self.as_reference / self.asked if self.asked else float("nan")


@dataclass(frozen=True)
class Answers:
    """The scores of all models, in order, over all subjects and by subject."""

    scores: list[Score]
    by_subject: dict[str, list[Score]]
    cut: int  # questions asked with fewer examples, for the context
    left_out: int  # questions longer than the context even without examples


def answer(
    executors: Sequence[Executor], tokenizer: tokenizers.Tokenizer, subjects: Sequence[Subject], shots: int
) -> Answers:
    """Asks every model every question. The first model is the one that the others' answers are compared to.

    Where a prompt with its answer is longer than the shortest context of the models, it gets fewer examples; without
    any, and still too long, it is left out.
    """
    context = min(executor.context for executor in executors)
    readers = [_Reader(executor) for executor in executors]
    total = Answers([Score() for _ in executors], {}, 0, 0)
    cut = left_out = 0
    questions = [(subject, question) for subject in subjects for question in subject.questions]
    for subject, question in track(questions, "questions"):
        prompt = fitting_prompt(tokenizer, subject, question, shots, context)
        if prompt is None:
            left_out += 1
            continue
        cut += prompt.shots < shots
        scores = total.by_subject.setdefault(subject.name, [Score() for _ in executors])
        chosen = [int(np.argmax(reader.log_likelihoods(prompt))) for reader in readers]
        for both in (scores, total.scores):
            for score, choice in zip(both, chosen, strict=True):
                score.asked += 1
                score.right += choice == question.answer
                score.as_reference += choice == chosen[0]
    return Answers(total.scores, total.by_subject, cut, left_out)


def fitting_prompt(
    tokenizer: tokenizers.Tokenizer, subject: Subject, question: Question, shots: int, context: int
) -> Prompt | None:
    """The prompt with as many of ``shots`` examples as ``context`` has room for; None where it has none without any."""
    for count in range(shots, -1, -1):
        prompt = make_prompt(tokenizer, subject, question, count)
        if len(prompt.tokens) + max(map(len, prompt.endings)) - 1 <= context:
            return prompt
    return None


def make_prompt(tokenizer: tokenizers.Tokenizer, subject: Subject, question: Question, shots: int) -> Prompt:
    """The intro, ``shots`` answered examples and the question, up to and without the answer's letter.

    The letter is tokenized behind the text, since it may share a token with the space before it.
    """
    style = subject.style
    header = style.intro.format(subject=subject.name.replace("_", " "))
    for example in subject.examples[:shots]:
        header += f"{_stated(example, style.answer)}{style.space}{LETTERS[example.answer]}\n\n"
    text = header + _stated(question, style.answer)
    whole = [_ids(tokenizer, f"{text}{style.space}{letter}") for letter in LETTERS[: len(question.options)]]
    common = min(*(_common(whole[0], ids) for ids in whole), *(len(ids) - 1 for ids in whole))
    tokens = whole[0][:common]
    shared = min(_common(tokens, _ids(tokenizer, header)), common - 1)
    return Prompt(tuple(tokens), tuple(tuple(ids[common:]) for ids in whole), shared, shots)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(one), len(other)))


def _stated(question: Question, answer: str) -> str:
    options = (f"{letter}. {option}\n" for letter, option in zip(LETTERS, question.options, strict=False))
    return f"{question.text}\n{''.join(options)}{answer}"


def _ids(tokenizer: tokenizers.Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


class _Reader:
    """A model in whose slot the examples of a subject stay for all its questions."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._held: tuple[int, ...] = ()

    def log_likelihoods(self, prompt: Prompt) -> list[float]:
        """The log-likelihood of each ending behind the prompt, in nats.

        What is shared is always fed in steps of its own, so that a result does not depend on what was asked before.
        """
        head = prompt.tokens[: prompt.shared]
        if self._held != head:
            if head:
                self._executor.feed(head, slot=0, start=0)
            self._held = head
        logits = self._executor.feed(prompt.tokens[len(head) :], slot=0, start=len(head))
        first = log_softmax(logits[None])[0]
        return [float(first[ending[0]]) + sum(self._rest(prompt, ending)) for ending in prompt.endings]

    def _rest(self, prompt: Prompt, ending: tuple[int, ...]) -> Iterator[float]:
        for index in range(1, len(ending)):
            logits = self._executor.feed([ending[index - 1]], slot=0, start=len(prompt.tokens) + index - 1)
            yield float(log_softmax(logits[None])[0, ending[index]])
