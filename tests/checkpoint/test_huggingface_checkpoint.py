"""Folders of safetensors, whole or in shards: tensors, configuration, tokenizer, fingerprint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.checkpoints import CHAT_TEMPLATE, generation_config, tensor_shapes, write_checkpoint
from tokenizers import Tokenizer

from vamc_py.checkpoint import check_tensors, open_checkpoint
from vamc_py.errors import CheckpointError


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "llama"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(("shards", "tied"), [(1, True), (3, False)])
def test_every_tensor_equals_what_safetensors_reads(
    tmp_path: Path, architecture: str, dtype: str, shards: int, tied: bool
) -> None:
    config = write_checkpoint(tmp_path, architecture=architecture, dtype=dtype, shards=shards, tied=tied)
    checkpoint = open_checkpoint(str(tmp_path), "huggingface")
    check_tensors(checkpoint, tensor_shapes(config))
    assert checkpoint.config == config
    assert checkpoint.generation_config == generation_config()
    oracle: dict[str, np.ndarray] = {}
    for file in tmp_path.glob("*.safetensors"):
        oracle |= load_file(file)
    assert set(checkpoint.tensors) == set(oracle) == set(tensor_shapes(config))
    for name, values in oracle.items():
        assert checkpoint.tensors[name].dtype == dtype == values.dtype.name
        np.testing.assert_array_equal(checkpoint.read(name), values)
        np.testing.assert_array_equal(checkpoint.read(name, 3, 11), values[3:11])
        assert checkpoint.read(name, 5, 5).shape == (0, *values.shape[1:])


def test_rows_are_views_of_the_mapped_file(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, architecture="qwen3", dtype="bfloat16")
    rows = open_checkpoint(str(tmp_path), "huggingface").read("model.embed_tokens.weight", 8, 16)
    assert not rows.flags.writeable
    assert not rows.flags.owndata


def test_rows_that_do_not_exist_are_a_programming_error(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, architecture="qwen3")
    checkpoint = open_checkpoint(str(tmp_path), "huggingface")
    for start, stop in ((0, 65), (-1, 3), (9, 8)):
        with pytest.raises(IndexError):
            checkpoint.read("model.norm.weight", start, stop)


def test_a_tensor_after_an_odd_number_of_bytes_is_read_right(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, architecture="qwen2")
    values = {"odd": np.arange(3, dtype=np.int8), "scalar": np.float32(2.5), "x": np.arange(6, dtype=np.float32)}
    _write_unordered(tmp_path / "model.safetensors", {name: np.asarray(value) for name, value in values.items()})
    checkpoint = open_checkpoint(str(tmp_path), "huggingface")
    for name, value in values.items():
        np.testing.assert_array_equal(checkpoint.read(name), value)
    assert checkpoint.read("scalar").shape == ()
    assert checkpoint.read("x", 2, 4).flags.aligned


def _write_unordered(path: Path, values: dict[str, np.ndarray]) -> None:
    """As save_file, which would put the tensors of the largest dtype first."""
    codes = {"int8": "I8", "float32": "F32"}
    data, header = b"", {}
    for name, value in values.items():
        offsets = [len(data), len(data) + value.nbytes]
        header[name] = {"dtype": codes[value.dtype.name], "shape": value.shape, "data_offsets": offsets}
        data += value.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_config_vacc_json_is_preferred_only_when_asked_for(tmp_path: Path) -> None:
    config = write_checkpoint(tmp_path, architecture="qwen2")
    assert open_checkpoint(str(tmp_path), "huggingface", vacc_config=True).config_file == tmp_path / "config.json"
    (tmp_path / "config_vacc.json").write_text(json.dumps(config | {"insert_slice": True}))
    assert open_checkpoint(str(tmp_path), "huggingface", vacc_config=True).config["insert_slice"] is True
    assert "insert_slice" not in open_checkpoint(str(tmp_path), "huggingface").config


def test_no_generation_config_is_an_empty_one(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, architecture="qwen2")
    (tmp_path / "generation_config.json").unlink()
    assert open_checkpoint(str(tmp_path), "huggingface").generation_config == {}


def test_faults_of_a_folder_are_named(tmp_path: Path) -> None:
    def refused(match: str) -> None:
        with pytest.raises(CheckpointError, match=match):
            open_checkpoint(str(folder), "huggingface")

    folder = tmp_path / "not there" / "at all"
    refused("there is no folder .*frontend.checkpoint")
    folder = tmp_path / "model"
    folder.mkdir()
    refused(r"has no config\.json")
    (folder / "model.gguf").touch()
    refused(r"for model\.gguf set frontend\.type: gguf")
    (folder / "config.json").write_text('{\n  "hidden_size": 64,\n  oops\n}')
    refused(r"config\.json:3:3: bad JSON")
    (folder / "config.json").write_text("[]")
    refused(r"config\.json:1:1: a JSON object is needed")
    (folder / "config.json").write_bytes(b"{\xff}")
    refused(r"config\.json: byte 1 is not UTF-8")
    (folder / "config.json").write_text("[" * 100_000)
    refused(r"config\.json:1:1: bad JSON")
    (folder / "config.json").write_text("{}")
    refused(r"has no model\.safetensors and no model\.safetensors\.index\.json; fetch the weights")
    (folder / "pytorch_model.bin").touch()
    refused(r"has no safetensors, only pytorch_model\.bin.*convert it")
    (folder / "model-00001-of-00002.safetensors").touch()
    refused(r"has model-00001-of-00002\.safetensors but no model\.safetensors\.index\.json")
    folder = tmp_path / "model" / "model.gguf"
    refused(r"is a file.*set frontend\.type: gguf")


def test_faults_of_an_index_are_named(tmp_path: Path) -> None:
    clean = tmp_path / "clean"
    write_checkpoint(clean, architecture="llama", shards=2)
    index_of = json.loads((clean / "model.safetensors.index.json").read_text())["weight_map"]
    first, second = sorted(set(index_of.values()))

    def refused(match: str, weight_map: Any, *, remove: str | None = None, copy: str | None = None) -> None:
        folder = shutil.copytree(clean, tmp_path / "model", dirs_exist_ok=True)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        if remove:
            (folder / remove).unlink()
        if copy:
            shutil.copy(folder / first, folder / copy)
        with pytest.raises(CheckpointError, match=match):
            open_checkpoint(str(folder), "huggingface")

    name = "model.embed_tokens.weight"
    refused("weight_map must map the names", [first])
    refused("weight_map must map the names", {name: 3})
    refused(f"names {second}, which is not there", index_of, remove=second)
    refused("is not a file of this folder", index_of | {name: "../model.safetensors"})
    refused("puts the tensor extra.weight into .*, but no shard has it", index_of | {"extra.weight": first})
    refused(f"puts the tensor {name} into {second}, but it is in {first}", index_of | {name: second})
    refused(f"does not list {name} of {first}", {key: file for key, file in index_of.items() if key != name})
    refused(f"the tensor {name} is in .* and in ", index_of | {name: "more.safetensors"}, copy="more.safetensors")


def test_tokenizer_files_carry_the_chat_template(tmp_path: Path) -> None:
    source = tmp_path / "model"
    write_checkpoint(source, architecture="qwen2")
    settings = json.loads((source / "tokenizer_config.json").read_text())
    assert _saved(source, tmp_path) == settings

    del settings["chat_template"]
    (source / "tokenizer_config.json").write_text(json.dumps(settings))
    assert "chat_template" not in _saved(source, tmp_path)
    (source / "chat_template.json").write_text(json.dumps({"chat_template": "from json"}))
    assert _saved(source, tmp_path)["chat_template"] == "from json"
    (source / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": "from settings"}))
    assert _saved(source, tmp_path)["chat_template"] == "from settings"
    (source / "chat_template.jinja").write_bytes(b"from jinja\r\n")
    assert _saved(source, tmp_path)["chat_template"] == "from jinja\r\n"


def _saved(source: Path, tmp_path: Path) -> dict[str, Any]:
    folder = tmp_path / "tokenizer"
    folder.mkdir(exist_ok=True)
    open_checkpoint(str(source), "huggingface").save_tokenizer(folder)
    assert (folder / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
    result: dict[str, Any] = json.loads((folder / "tokenizer_config.json").read_text())
    return result


def test_a_folder_without_a_usable_tokenizer_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, architecture="qwen2")
    checkpoint = open_checkpoint(str(tmp_path), "huggingface")
    (tmp_path / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is no tokenizer"):
        checkpoint.save_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json; save it with transformers"):
        checkpoint.save_tokenizer(tmp_path)


def test_the_test_tokenizer_round_trips(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, architecture="qwen2")
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    ids = tokenizer.encode("the end<|im_end|>").ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == "the end<|im_end|>"
    assert ids[-1] == generation_config()["eos_token_id"][0]
    assert "<|im_start|>assistant" in CHAT_TEMPLATE


def test_the_fingerprint_sees_weights_and_config_but_not_the_place(tmp_path: Path) -> None:
    def fingerprint(name: str, **changes: Any) -> str:
        write_checkpoint(tmp_path / name, architecture="qwen2", **changes)
        return open_checkpoint(str(tmp_path / name), "huggingface").fingerprint()

    one = fingerprint("a")
    assert fingerprint("b") == one
    others = [fingerprint("c", seed=1), fingerprint("d", shards=2), fingerprint("e", rope_theta=5.0)]
    assert len({one, *others}) == 4
    for file in ("chat_template.jinja", "modeling_qwen2_vacc.py"):
        (tmp_path / "b" / file).write_text("another")
        before, one = one, open_checkpoint(str(tmp_path / "b"), "huggingface").fingerprint()
        assert one != before


def test_writer_of_the_tests_agrees_with_safetensors(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, architecture="qwen2")
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors, tmp_path / "again.safetensors")
    again = load_file(tmp_path / "again.safetensors")
    assert {name: value.tobytes() for name, value in again.items()} == {
        name: value.tobytes() for name, value in tensors.items()
    }
