"""Text to ids and back, in one piece and streamed."""

from __future__ import annotations

from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny_tokenizer import CONFIG, END, TEXT_END, tiny_backend, tiny_tokenizer, write_tokenizer
from tokenizers import decoders, models, pre_tokenizers, processors

from vamc_py.errors import ArtifactError, UserError
from vamc_py.runtime.tokenizer import Tokenizer

TOKENIZER = tiny_tokenizer()
SIZE = tiny_backend().get_vocab_size()


def streamed(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    stream = tokenizer.stream()
    return [*(stream.push(token) for token in ids), stream.flush()]


@given(st.text(max_size=60))
@settings(deadline=None)
def test_streamed_text_is_the_text(text: str) -> None:
    tokenizer = Tokenizer(_without_normalizer(), CONFIG)
    ids = tokenizer.encode_rendered(text)
    pieces = streamed(tokenizer, ids)
    assert "".join(pieces) == text
    assert all("\ufffd" not in piece for piece in pieces) or "\ufffd" in text


@given(st.lists(st.integers(0, SIZE + 3), max_size=40))
@settings(deadline=None)
def test_any_ids_stream_to_what_they_decode_to(ids: list[int]) -> None:
    """Halves of characters, special tokens between them and ids that no token has included."""
    assert "".join(streamed(TOKENIZER, ids)) == TOKENIZER.decode(ids)


def test_a_character_of_several_tokens_comes_whole() -> None:
    ids = TOKENIZER.encode_rendered("a𝄞b")
    assert len(ids) == 6
    assert streamed(TOKENIZER, ids) == ["a", "", "", "", "𝄞", "b", ""]


def test_half_a_character_at_the_end_is_shown_as_such() -> None:
    ids = TOKENIZER.encode_rendered("a𝄞")[:-1]
    assert streamed(TOKENIZER, ids) == ["a", "", "", "", "\ufffd"]


def test_a_decoder_that_strips_the_first_space_keeps_the_others() -> None:
    backend = tokenizers.Tokenizer(models.BPE({"▁": 0, "▁a": 1, "b": 2}, [], byte_fallback=False))
    backend.decoder = decoders.Metaspace()
    tokenizer = Tokenizer(backend, {})
    ids = [1, 2, 1, 1, 0, 0, 2]
    assert "".join(streamed(tokenizer, ids)) == tokenizer.decode(ids) == "ab a a  b"


def test_special_tokens_in_the_text_are_parsed() -> None:
    ids = TOKENIZER.encode_rendered(f"a{END}<think>")
    assert ids[1:] == [TOKENIZER.token_id(END), TOKENIZER.token_id("<think>")]
    assert TOKENIZER.decode(ids) == "a<think>"  # thinking is shown, control tokens are not
    assert TOKENIZER.stop_ids == {TOKENIZER.token_id(END)}


def test_the_beginning_of_a_raw_text() -> None:
    bos = TOKENIZER.token_id(TEXT_END)
    assert TOKENIZER.encode_raw("a") == TOKENIZER.encode_rendered("a")
    adds = tiny_tokenizer(add_bos_token=True, bos_token=TEXT_END)
    assert adds.encode_raw("a") == [bos, *TOKENIZER.encode_rendered("a")]
    assert adds.encode_raw(TEXT_END + "a") == [bos, *TOKENIZER.encode_rendered("a")]
    assert adds.encode_rendered("a") == TOKENIZER.encode_rendered("a")


def test_a_post_processor_adds_its_tokens_to_raw_text_only() -> None:
    backend = tiny_backend()
    end = backend.token_to_id(TEXT_END)
    backend.post_processor = processors.TemplateProcessing(f"$A {TEXT_END}", special_tokens=[(TEXT_END, end)])
    tokenizer = Tokenizer(backend, CONFIG)
    assert tokenizer.encode_raw("a") == [*tokenizer.encode_rendered("a"), end]


def test_length_limit_and_padding_of_training_are_taken_off() -> None:
    backend = tiny_backend()
    backend.enable_truncation(2)
    backend.enable_padding(length=50)
    assert Tokenizer(backend, CONFIG).encode_rendered("hello there") == TOKENIZER.encode_rendered("hello there")


def test_text_that_is_not_unicode() -> None:
    with pytest.raises(UserError, match="character 1"):
        TOKENIZER.encode_raw("a\udcff")


def test_reads_a_folder(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    assert Tokenizer.read(tmp_path).encode_raw("über") == TOKENIZER.encode_raw("über")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [None, "{", "[]", "\udc80"])
def test_damaged_files_are_named(tmp_path: Path, name: str, content: str | None) -> None:
    write_tokenizer(tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ArtifactError, match=name):
        Tokenizer.read(tmp_path)


def test_a_special_token_must_be_text() -> None:
    with pytest.raises(ArtifactError, match="eos_token is 3"):
        tiny_tokenizer(eos_token=3)


def _without_normalizer() -> tokenizers.Tokenizer:
    """Without NFC and without tokens of several characters that a random text could contain."""
    backend = tokenizers.Tokenizer(models.BPE(_byte_vocabulary(), []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def _byte_vocabulary() -> dict[str, int]:
    return {character: index for index, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
