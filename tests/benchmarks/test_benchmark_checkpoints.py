"""The checkpoints that the benchmark makes are whole models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.benchmark_results import SHAPE
from support.checkpoints import random_tensor, tensor_shapes, write_gguf
from support.checkpoints import write_tokenizer as write_tiny_tokenizer
from tokenizers import Tokenizer

from benchmarks import checkpoints
from benchmarks.checkpoints import ModelChoice
from benchmarks.shape import ModelShape
from vamc_py.checkpoint import check_tensors, open_checkpoint
from vamc_py.errors import UserError


def test_a_random_checkpoint_is_a_whole_qwen3(tmp_path: Path) -> None:
    checkpoints.write_random(tmp_path, SHAPE, None)
    checkpoint = open_checkpoint(str(tmp_path), "huggingface")
    check_tensors(checkpoint, tensor_shapes(checkpoint.config))
    assert ModelShape.read(tmp_path) == SHAPE
    weights = checkpoint.read("model.layers.1.mlp.up_proj.weight").astype(np.float32)
    assert checkpoint.tensors["model.layers.1.mlp.up_proj.weight"].dtype == "bfloat16"
    assert weights.std() == pytest.approx(0.02, rel=0.1)
    assert checkpoint.read("model.norm.weight").astype(np.float32).mean() == pytest.approx(1, abs=0.05)


def test_the_same_shape_gives_the_same_weights(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        checkpoints.write_random(tmp_path / name, SHAPE, None)
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "b"))
    assert first == second


def test_the_tokenizer_has_a_text_for_every_token(tmp_path: Path) -> None:
    checkpoints.write_tokenizer(tmp_path, 300)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == 300
    assert sorted(tokenizer.get_vocab().values()) == list(range(300))
    text = "What is the capital of France? é"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert len(tokenizer.encode(text).ids) == len(text.encode())


def test_a_small_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="258 tokens is too small"):
        checkpoints.write_tokenizer(tmp_path, 258)


def test_a_given_tokenizer_is_copied_with_its_end(tmp_path: Path) -> None:
    source, folder = tmp_path / "source", tmp_path / "folder"
    source.mkdir()
    folder.mkdir()
    write_tiny_tokenizer(source)
    checkpoints.write_random(folder, SHAPE, source)
    end = Tokenizer.from_file(str(source / "tokenizer.json")).token_to_id("<|im_end|>")
    assert open_checkpoint(str(folder), "huggingface").config["eos_token_id"] == end
    with pytest.raises(UserError, match=r"--tokenizer .*: tokenizer\.json is not there"):
        checkpoints.copy_tokenizer(tmp_path, folder)


def test_a_gguf_becomes_a_folder_with_its_weights(tmp_path: Path) -> None:
    config = write_gguf(tmp_path / "model.gguf", architecture="llama", quantization="Q8_0", vocab=320)
    folder = ModelChoice.parse(f"mine={tmp_path / 'model.gguf'}").folder(tmp_path / "made", None)
    checkpoint = open_checkpoint(str(folder), "huggingface")
    shapes = tensor_shapes(config)
    check_tensors(checkpoint, shapes)
    for name in shapes:
        read = checkpoint.read(name)
        assert read.dtype == np.float16
        np.testing.assert_allclose(read.astype(np.float32), random_tensor(name, shapes[name]), atol=2e-3)
    assert checkpoint.generation_config["eos_token_id"]
    checkpoint.save_tokenizer(tmp_path)


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", architecture="qwen3", vocab=320)
    choice = ModelChoice.parse(f"mine={tmp_path / 'model.gguf'}")
    folder = choice.folder(tmp_path, None)
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    assert choice.folder(tmp_path, None) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp
    assert ModelChoice.parse(f"mine={folder}").folder(tmp_path / "other", None) == folder


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("qwen9", "without a path the name is one of qwen3-0.6b, qwen3-1.7b"),
        ("a=nowhere.gguf", "nowhere.gguf is not there"),
        ("=x", "write NAME=PATH"),
        ("a/b=x", "write NAME=PATH"),
    ],
)
def test_model_options(text: str, message: str) -> None:
    with pytest.raises(UserError, match=f"--model {text}: .*{message}"):
        ModelChoice.parse(text)


def test_random_models_have_the_published_sizes() -> None:
    weights = {
        name: (shape.layer_weights + shape.hidden * shape.vocabulary) / 1e9
        for name, shape in checkpoints.RANDOM_MODELS.items()
    }
    assert weights == pytest.approx({"qwen3-0.6b": 0.596, "qwen3-1.7b": 1.72}, rel=0.01)
