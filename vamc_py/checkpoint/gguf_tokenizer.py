"""The tokenizer that a GGUF file's metadata describes, as tokenizer.json and tokenizer_config.json."""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from vamc_py.checkpoint.base import write_json
from vamc_py.checkpoint.gguf_config import Metadata
from vamc_py.errors import CheckpointError

_CONTROL, _USER_DEFINED, _UNUSED = 3, 4, 5  # tokenizer.ggml.token_type; 1 is normal
_WORDS_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_WORDS = (  # the form that Llama 3 brought; families differ in how many digits stay together
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}<digits>"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# By tokenizer.ggml.pre: regular expressions applied in turn, each to the pieces that the one before left.
_SPLITS = {
    "default": (r"[\p{P}\$\+<=>\^~\|]+", _WORDS_GPT2, r"\p{N}+", "[0-9][0-9][0-9]"),
    "gpt-2": (_WORDS_GPT2,),
    "llama-bpe": (_WORDS.replace("<digits>", "{1,3}"),),
    "qwen2": (_WORDS.replace("<digits>", ""),),
    "smollm": (r"\p{N}", _WORDS_GPT2),
}
_ALIASES = {"gpt2": "gpt-2", "llama3": "llama-bpe", "llama-v3": "llama-bpe", "deepseek-r1-qwen": "qwen2"}


def save_tokenizer(metadata: Metadata, folder: Path) -> None:
    """Writes tokenizer.json and tokenizer_config.json; CheckpointError when the vocabulary cannot be used."""
    kind = metadata.text("tokenizer.ggml.model")
    if kind != "gpt2":
        what = f"the tokenizer is of the kind {kind!r}; only byte-level BPE (gpt2) can be read"
        raise CheckpointError(f"{metadata.path}: {what}; use a Hugging Face folder of the model")
    tokens = metadata.texts("tokenizer.ggml.tokens")
    tokenizer, settings = _tokenizer(metadata, tokens), _settings(metadata, tokens)
    (folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    write_json(folder / "tokenizer_config.json", settings)


def _tokenizer(metadata: Metadata, tokens: list[str]) -> Tokenizer:
    pre = _pre_tokenizer(metadata)
    kinds = metadata.numbers("tokenizer.ggml.token_type")
    if len(kinds) != len(tokens):
        raise metadata.fault("tokenizer.ggml.token_type", f"a list of {len(tokens)}, one for each token,")
    used = max((index + 1 for index, kind in enumerate(kinds) if kind != _UNUSED), default=0)
    vocabulary = {token: index for index, token in enumerate(tokens[:used])}
    if len(vocabulary) < used:
        raise metadata.fault("tokenizer.ggml.tokens", "a list without repetitions")
    merges = _merges(metadata, vocabulary)
    # Llama 3 takes a word that is a token whole, even where no sequence of merges leads to it.
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=pre == "llama-bpe"))
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in _SPLITS[pre]]
    space = metadata.flag("tokenizer.ggml.add_space_prefix", False)
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=space, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = _post_processor(metadata, tokens)
    marked = [
        AddedToken(token, special=kind == _CONTROL, normalized=False)
        for token, kind in zip(tokens, kinds, strict=True)
        if kind in (_CONTROL, _USER_DEFINED) and token
    ]
    tokenizer.add_tokens(marked)
    return tokenizer


def _pre_tokenizer(metadata: Metadata) -> str:
    """The key of _SPLITS."""
    name = metadata.text("tokenizer.ggml.pre", "default")
    name = _ALIASES.get(name, name)
    if name not in _SPLITS:
        what = f"the pre-tokenizer {name!r} is none of {', '.join(_SPLITS)}"
        raise CheckpointError(f"{metadata.path}: {what}; use a Hugging Face folder of the model")
    return name


def _merges(metadata: Metadata, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    merges = []
    for merge in metadata.texts("tokenizer.ggml.merges"):
        left, _, right = merge.partition(" ")
        if left not in vocabulary or right not in vocabulary or left + right not in vocabulary:
            what = f"the merge {merge!r} is not one of tokens into a token"
            raise CheckpointError(f"{metadata.path} is damaged: {what}; fetch it again")
        merges.append((left, right))
    return merges


def _adds_bos(metadata: Metadata) -> bool:
    """Llama 3 starts every text with its bos token unless the file says otherwise."""
    return metadata.flag("tokenizer.ggml.add_bos_token", _pre_tokenizer(metadata) == "llama-bpe")


def _post_processor(metadata: Metadata, tokens: list[str]) -> processors.PostProcessor:
    bos = metadata.token("tokenizer.ggml.bos_token_id", len(tokens))
    if not _adds_bos(metadata) or bos is None:
        return processors.ByteLevel(trim_offsets=False)
    name = tokens[bos]
    pair = [name, "$A", name, "$B:1"]
    return processors.TemplateProcessing(single=pair[:2], pair=pair, special_tokens=[(name, bos)])


def _settings(metadata: Metadata, tokens: list[str]) -> dict[str, object]:
    """tokenizer_config.json."""
    settings: dict[str, object] = {
        "add_bos_token": _adds_bos(metadata),
        "clean_up_tokenization_spaces": False,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        token = metadata.token(f"tokenizer.ggml.{key}_token_id", len(tokens))
        settings[f"{name}_token"] = None if token is None else tokens[token]
    if "tokenizer.chat_template" in metadata.values:
        settings["chat_template"] = metadata.text("tokenizer.chat_template")
    return settings
