"""Perplexity: which tokens are scored and how, against a plain computation in numpy."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.artifacts import CONTEXT, Reference, write_artifact

from vamc_py.errors import ArtifactError, UserError
from vamc_py.runtime.executor import Executor
from vamc_py.runtime.perplexity import negative_log_likelihood, perplexity, tokenize, windows


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifacts") / "toy"
    write_artifact(folder)
    return folder


@settings(max_examples=15, deadline=None)
@given(context=st.integers(4, CONTEXT), seed=st.integers(0, 99))
def test_perplexity_against_plain_numpy(artifact: Path, context: int, seed: int) -> None:
    # Mostly zeros: the toy's logits are then small enough that exp of their mean differences is finite.
    tokens = np.random.default_rng(seed).integers(0, 2, 2 * context + 3) * (np.arange(2 * context + 3) % 9 == 0)
    parts = windows(tokens, context, None)
    losses = []
    for window in parts:
        logits = Reference.empty(1).step(window, range(context), [0] * context, range(context)).astype(np.float64)
        for position in range(context // 2, context - 1):
            row = logits[position] - logits[position].max()
            losses.append(math.log(np.exp(row).sum()) - row[window[position + 1]])
    result = perplexity(Executor.load(artifact, context=context), parts)
    assert result.tokens == len(losses) == 2 * (context - 1 - context // 2)
    assert result.ppl == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-12)


@given(rows=st.integers(1, 40), scale=st.sampled_from([0.0, 1.0, 1e4, 1e30]), seed=st.integers(0, 99))
def test_negative_log_likelihood(rows: int, scale: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    logits = (random.normal(size=(rows, 7)) * scale).astype(np.float32)
    targets = random.integers(0, 7, rows)
    wide = logits.astype(np.float64)
    expected = np.logaddexp.reduce(wide, axis=1) - wide[np.arange(rows), targets]
    np.testing.assert_allclose(negative_log_likelihood(logits, targets), expected, rtol=1e-12, atol=1e-12)


def test_windows_do_not_overlap_and_drop_the_rest() -> None:
    tokens = np.arange(23)
    assert [part.tolist() for part in windows(tokens, 5, None)] == [list(range(i, i + 5)) for i in (0, 5, 10, 15)]
    assert [part[0] for part in windows(tokens, 5, 2)] == [0, 5]


def test_text_that_is_too_short() -> None:
    with pytest.raises(UserError, match="the text has 7 tokens, too few for one window of 8"):
        windows(np.arange(7), 8, None)


@pytest.mark.parametrize("chunks", [-1, 0, 5])
def test_impossible_number_of_chunks(chunks: int) -> None:
    with pytest.raises(UserError, match=f"^{chunks} chunks: the text has 1 to 4 windows"):
        windows(np.arange(23), 5, chunks)


def test_window_without_a_half_to_score() -> None:
    with pytest.raises(UserError, match="at least 4 tokens"):
        windows(np.arange(23), 3, None)


def test_tokenize_reads_special_tokens_as_text(artifact: Path, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("w3 w38 <end>\nw7")
    assert tokenize(artifact, text).tolist() == [3, 38, 0, 7]  # <end> is an unknown word, w0, and not the token 39


def test_long_text_is_not_cut(tmp_path: Path) -> None:
    write_artifact(tmp_path / "toy")
    path = tmp_path / "toy" / "tokenizer" / "tokenizer.json"
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=4)
    tokenizer.save(str(path))
    (tmp_path / "text").write_text("w1 " * 50)
    assert tokenize(tmp_path / "toy", tmp_path / "text").tolist() == [1] * 50


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_unreadable_text(artifact: Path, tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "text").write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as UTF-8 text"):
        tokenize(artifact, tmp_path / "text")


@pytest.mark.parametrize("content", [None, "{}"])
def test_unreadable_tokenizer(tmp_path: Path, content: str | None) -> None:
    (tmp_path / "text").write_text("w1")
    (tmp_path / "tokenizer").mkdir()
    if content is not None:
        (tmp_path / "tokenizer" / "tokenizer.json").write_text(content)
    with pytest.raises(ArtifactError, match=r"tokenizer\.json: (the file is missing|cannot be read as a tokenizer)"):
        tokenize(tmp_path, tmp_path / "text")
