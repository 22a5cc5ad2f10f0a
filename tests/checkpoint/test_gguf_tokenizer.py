"""The tokenizer in a GGUF file's metadata gives the ids and texts of the one that it describes."""

from __future__ import annotations

import json
import unicodedata
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gguf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.checkpoints import CHAT_TEMPLATE, MERGES, base_vocabulary, write_gguf
from tokenizers import Tokenizer, pre_tokenizers

from vamc_py.checkpoint import open_checkpoint
from vamc_py.errors import CheckpointError

# Letters of the merges, apostrophes, line ends, digits of several scripts, an accent to compose, emoji, rare spaces.
TEXTS = st.text(
    st.sampled_from("then is awo rd'IS'llT\r\n\t  12½７Ⅷ.,!{}_é\u0301A\u030a你好🙂\u200d\u00a0\u3000ßж"), max_size=40
)


def _save(path: Path, folder: Path, **arguments: Any) -> tuple[Tokenizer, dict[str, Any]]:
    write_gguf(path, architecture="qwen2", **arguments)
    folder.mkdir(exist_ok=True)
    open_checkpoint(str(path), "gguf").save_tokenizer(folder)
    settings: dict[str, Any] = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    return Tokenizer.from_file(str(folder / "tokenizer.json")), settings


@cache
def _tokenizer(pre: str) -> Tokenizer:
    with TemporaryDirectory() as folder:
        return _save(Path(folder) / "model.gguf", Path(folder), pre=pre)[0]


@cache
def _official_qwen2() -> Any:
    """The tokenizer that transformers builds for Qwen2 from a vocabulary and merges."""
    from transformers import Qwen2TokenizerFast

    with TemporaryDirectory() as folder:
        vocabulary, merges = Path(folder) / "vocab.json", Path(folder) / "merges.txt"
        vocabulary.write_text(json.dumps({token: index for index, token in enumerate(base_vocabulary())}))
        merges.write_text("\n".join(["#version: 0.2", *MERGES, ""]), encoding="utf-8")
        return Qwen2TokenizerFast(str(vocabulary), str(merges))


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_qwen2_gives_the_ids_that_transformers_gives(text: str) -> None:
    assert _tokenizer("qwen2").encode(text).ids == _official_qwen2()(text).input_ids


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_gpt2_and_smollm_split_as_their_official_tokenizers(text: str) -> None:
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    single_digits = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words])
    for pre, official in (("gpt-2", words), ("smollm", single_digits)):
        assert _tokenizer(pre).pre_tokenizer.pre_tokenize_str(text) == official.pre_tokenize_str(text)


@pytest.mark.parametrize(
    ("pre", "text", "pieces"),
    [
        ("qwen2", "I'LL 1234\r\n  x", ["I", "'LL", "Ġ", "1", "2", "3", "4", "čĊ", "Ġ", "Ġx"]),
        ("llama-bpe", "I'LL 1234\r\n  x", ["I", "'LL", "Ġ", "123", "4", "čĊ", "Ġ", "Ġx"]),
        ("llama3", "a.b\n\n", ["a", ".b", "ĊĊ"]),
        ("gpt-2", "I'll 1234\r\n  x", ["I", "'ll", "Ġ1234", "čĊĠ", "Ġx"]),
        ("smollm", "I'll 1234", ["I", "'ll", "Ġ", "1", "2", "3", "4"]),
        ("default", "a+=b 12345", ["a", "+=", "b", "Ġ", "123", "45"]),
    ],
)
def test_pieces(pre: str, text: str, pieces: list[str]) -> None:
    assert [piece for piece, _ in _tokenizer(pre).pre_tokenizer.pre_tokenize_str(text)] == pieces


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_what_is_encoded_decodes_to_the_text(text: str) -> None:
    for pre in ("qwen2", "llama-bpe", "smollm", "default"):
        expected = unicodedata.normalize("NFC", text) if pre == "qwen2" else text
        assert _tokenizer(pre).decode(_tokenizer(pre).encode(text).ids) == expected


def test_control_tokens_keep_their_ids_and_padding_has_none(tmp_path: Path) -> None:
    tokenizer, settings = _save(tmp_path / "model.gguf", tmp_path / "tokenizer")
    first = len(base_vocabulary())
    assert tokenizer.encode("<|im_start|>the<|im_end|>").ids == [first + 1, tokenizer.token_to_id("the"), first + 2]
    assert tokenizer.decode([first + 1, tokenizer.token_to_id("the")]) == "the"
    assert tokenizer.get_vocab_size() == first + 3
    assert settings == {
        "add_bos_token": False,
        "bos_token": "<|endoftext|>",
        "eos_token": "<|im_end|>",
        "pad_token": None,
        "clean_up_tokenization_spaces": False,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": CHAT_TEMPLATE,
    }


def test_the_bos_token_is_added_where_the_file_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf.GGUFWriter, "add_add_bos_token", lambda *_: None)
    bos = len(base_vocabulary())
    the = base_vocabulary().index("the")
    for pre, metadata, expected in (
        ("qwen2", {}, [the]),
        ("llama-bpe", {}, [bos, the]),
        ("llama-bpe", {"tokenizer.ggml.add_bos_token": False}, [the]),
        ("qwen2", {"tokenizer.ggml.add_bos_token": True}, [bos, the]),
    ):
        tokenizer, settings = _save(tmp_path / "model.gguf", tmp_path / "tokenizer", pre=pre, metadata=metadata)
        assert tokenizer.encode("the").ids == expected
        assert tokenizer.encode("the", add_special_tokens=False).ids == [the]
        assert settings["add_bos_token"] is (len(expected) == 2)


def test_the_bytes_are_the_same_each_time(tmp_path: Path) -> None:
    contents = []
    for name in ("a", "b"):
        _save(tmp_path / "model.gguf", tmp_path / name)
        contents.append([(tmp_path / name / file).read_bytes() for file in ("tokenizer.json", "tokenizer_config.json")])
    assert contents[0] == contents[1]


def _refused(path: Path, match: str, **arguments: Any) -> None:
    write_gguf(path, architecture="qwen2", **arguments)
    checkpoint = open_checkpoint(str(path), "gguf")
    with pytest.raises(CheckpointError, match=match):
        checkpoint.save_tokenizer(path.parent)
    assert not (path.parent / "tokenizer.json").exists()


def test_tokenizers_that_cannot_be_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.gguf"
    _refused(path, "the pre-tokenizer 'tekken' is none of default, gpt-2", pre="tekken")
    with monkeypatch.context() as patch:
        patch.setattr("support.checkpoints.MERGES", ["t h", "th qq"])
        _refused(path, "the merge 'th qq' is not one of tokens into a token")
    with monkeypatch.context() as patch:
        write = gguf.GGUFWriter.add_token_types
        patch.setattr(gguf.GGUFWriter, "add_token_types", lambda writer, types: write(writer, types[:-1]))
        _refused(path, "a list of 288, one for each token, is needed")
    with monkeypatch.context() as patch:
        patch.setattr("support.checkpoints.SPECIAL_TOKENS", ("<|a|>", "<|a|>", "<|b|>"))
        _refused(path, "a list without repetitions is needed")
    monkeypatch.setattr(
        gguf.GGUFWriter, "add_tokenizer_model", lambda w, _: w.add_string("tokenizer.ggml.model", "llama")
    )
    _refused(path, "the tokenizer is of the kind 'llama'; only byte-level BPE")
