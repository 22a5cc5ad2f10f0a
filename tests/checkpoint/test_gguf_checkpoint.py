"""GGUF files read as the Hugging Face checkpoints that they were made from."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from support.checkpoints import gguf_name, random_tensor, tensor_shapes, write_gguf

from vamc_py.checkpoint import check_tensors, open_checkpoint
from vamc_py.checkpoint.gguf_names import huggingface_name
from vamc_py.errors import CheckpointError

EMBEDDING = "model.embed_tokens.weight"
# Keys of config.json that a GGUF file has no place for, or that say what its absence says.
ABSENT = {"torch_dtype", "attention_bias", "mlp_bias", "use_sliding_window", "sliding_window"}


def _expected(name: str, shape: tuple[int, ...], quantization: str) -> np.ndarray:
    """What the tensor is after quantization, by the gguf library, in Hugging Face's order of rows."""
    values = random_tensor(name, shape)
    if len(shape) == 1:
        return values
    kind = gguf.GGMLQuantizationType[quantization]
    result: np.ndarray = gguf.dequantize(gguf.quantize(values, kind), kind)
    return result


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize(("quantization", "tied"), [("F32", True), ("F16", False), ("BF16", True), ("Q8_0", False)])
def test_every_row_equals_what_was_quantized(tmp_path: Path, architecture: str, quantization: str, tied: bool) -> None:
    path = tmp_path / "model.gguf"
    config = write_gguf(path, architecture=architecture, quantization=quantization, tied=tied)
    checkpoint = open_checkpoint(str(path), "gguf")
    assert checkpoint.config == {key: value for key, value in config.items() if key not in ABSENT}
    shapes = tensor_shapes(config)
    check_tensors(checkpoint, shapes)
    assert set(checkpoint.tensors) == set(shapes)
    for name, shape in shapes.items():
        values = checkpoint.read(name)
        assert values.dtype.name == checkpoint.tensors[name].dtype == "float32"
        np.testing.assert_array_equal(values, _expected(name, shape, quantization))
        # Across the border of a head, where llama's rows are in another order.
        np.testing.assert_array_equal(checkpoint.read(name, 5, min(19, shape[0])), values[5:19])


def test_rows_are_read_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, architecture="llama", quantization="Q8_0")
    checkpoint = open_checkpoint(str(path), "gguf")
    whole = checkpoint.read("model.layers.0.self_attn.q_proj.weight", 3, 60)
    monkeypatch.setattr("vamc_py.checkpoint.gguf_checkpoint._CHUNK", 7 * 64)
    np.testing.assert_array_equal(checkpoint.read("model.layers.0.self_attn.q_proj.weight", 3, 60), whole)


def test_only_the_rows_asked_for_take_memory(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, architecture="qwen2", quantization="Q8_0", vocab=20_000)
    checkpoint = open_checkpoint(str(path), "gguf")
    tracemalloc.start()
    rows = checkpoint.read(EMBEDDING, 9_000, 9_100)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * rows.nbytes  # gguf's temporaries; all rows would be 200 times as much


@pytest.mark.parametrize("quantization", ["Q4_0", "Q5_0", "Q8_0", "F16"])
def test_a_tied_embedding_stored_twice_is_taken_from_the_finer_copy(tmp_path: Path, quantization: str) -> None:
    path = tmp_path / "model.gguf"
    config = write_gguf(path, architecture="qwen2", quantization=quantization, output="Q8_0")
    checkpoint = open_checkpoint(str(path), "gguf")
    finer = "F16" if quantization == "F16" else "Q8_0"
    assert checkpoint.config["tie_word_embeddings"] is True
    assert "lm_head.weight" not in checkpoint.tensors
    expected = _expected(EMBEDDING, (config["vocab_size"], config["hidden_size"]), finer)
    np.testing.assert_array_equal(checkpoint.read(EMBEDDING), expected)


def test_an_lm_head_of_its_own_stays(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, architecture="qwen2", quantization="Q4_0", tied=False)
    checkpoint = open_checkpoint(str(path), "gguf")
    assert checkpoint.config["tie_word_embeddings"] is False
    assert not np.array_equal(checkpoint.read("lm_head.weight"), checkpoint.read(EMBEDDING))


def test_yarn(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
    write_gguf(path, architecture="qwen3", rope_scaling=scaling)
    assert open_checkpoint(str(path), "gguf").config["rope_scaling"] == scaling
    more = {"yarn_beta_fast": 24.0, "yarn_beta_slow": 2.0, "attn_factor": 0.5}
    metadata: dict[str, int | float | str | bool] = {f"qwen3.rope.scaling.{key}": value for key, value in more.items()}
    write_gguf(path, architecture="qwen3", rope_scaling=scaling, metadata=metadata)
    found = open_checkpoint(str(path), "gguf").config["rope_scaling"]
    assert found == scaling | {
        "beta_fast": 24.0,
        "beta_slow": 2.0,
        "attention_factor": pytest.approx(0.5 * (1 + 0.1 * np.log(4))),
    }


def test_stops_and_sampling(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    config = write_gguf(path, architecture="qwen2")
    end, eot = config["eos_token_id"], config["bos_token_id"] + 1
    assert open_checkpoint(str(path), "gguf").generation_config == {"eos_token_id": [end, config["bos_token_id"]]}
    metadata = {
        "tokenizer.ggml.eot_token_id": eot,
        "general.sampling.temp": 0.6,
        "general.sampling.top_k": 20,
        "general.sampling.top_p": 0.95,
    }
    write_gguf(path, architecture="qwen2", metadata=metadata)
    assert open_checkpoint(str(path), "gguf").generation_config == {
        "eos_token_id": [end, eot, config["bos_token_id"]],
        "temperature": 0.6,
        "top_k": 20,
        "top_p": 0.95,
        "do_sample": True,
    }


def test_metadata_that_changes_nothing_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    metadata: dict[str, int | float | str | bool] = {"llama.expert_count": 0, "llama.logit_scale": 1.0}
    config = write_gguf(path, architecture="llama", metadata=metadata)
    assert open_checkpoint(str(path), "gguf").config["num_hidden_layers"] == config["num_hidden_layers"]


def test_a_sliding_window_is_passed_on(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, architecture="qwen2", metadata={"qwen2.attention.sliding_window": 32})
    config = open_checkpoint(str(path), "gguf").config
    assert (config["use_sliding_window"], config["sliding_window"]) == (True, 32)


@pytest.mark.parametrize(
    ("metadata", "match"),
    [
        ({"llama.expert_count": 8}, "expert_count = 8"),
        ({"split.count": 3}, "is one of 3 parts; merge"),
        ({"llama.rope.dimension_count": 8}, "rope.dimension_count is '8'; the head size 16 is needed"),
        ({"tokenizer.ggml.eot_token_id": 9999}, "eot_token_id is '9999'; an id below 288"),
        ({"llama.rope.scaling.type": "yarn"}, "has no metadata llama.rope.scaling.factor"),
        ({"llama.rope.scaling.type": 3}, "rope.scaling.type is '3'; a text is needed"),
    ],
)
def test_metadata_that_cannot_be_served(tmp_path: Path, metadata: dict[str, Any], match: str) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, architecture="llama", metadata=metadata)
    with pytest.raises(CheckpointError, match=match):
        open_checkpoint(str(path), "gguf")


def test_an_unknown_architecture_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "gemma3")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(CheckpointError, match="the architecture 'gemma3' is none of llama, qwen2, qwen3"):
        open_checkpoint(str(path), "gguf")


def test_scaled_rope_frequencies_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, architecture="llama", extra={"rope_freqs.weight": np.ones(8, np.float32)})
    with pytest.raises(CheckpointError, match=r"rope_freqs\.weight scales the rotary embedding"):
        open_checkpoint(str(path), "gguf")


def test_a_tensor_without_a_place_keeps_its_name(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    config = write_gguf(path, architecture="llama", extra={"blk.0.ffn_gate_inp.weight": np.ones((2, 64), np.float32)})
    with pytest.raises(CheckpointError, match=r"blk\.0\.ffn_gate_inp\.weight has no place in the model"):
        check_tensors(open_checkpoint(str(path), "gguf"), tensor_shapes(config))


def test_a_type_that_gguf_cannot_dequantize(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, architecture="llama", extra={"blk.0.attn_q.bias": np.ones(64, np.int8)})
    with pytest.raises(CheckpointError, match=r"blk\.0\.attn_q\.bias has the type I8"):
        open_checkpoint(str(path), "gguf")


def test_llama_biases_are_put_back_as_the_rows_are(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    stored = np.arange(64, dtype=np.float32)
    write_gguf(path, architecture="llama", extra={"blk.0.attn_q.bias": stored})
    bias = open_checkpoint(str(path), "gguf").read("model.layers.0.self_attn.q_proj.bias")
    np.testing.assert_array_equal(bias, stored.reshape(4, 8, 2).swapaxes(1, 2).reshape(64))


def test_faults_of_a_location(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    with pytest.raises(CheckpointError, match="there is no GGUF file"):
        open_checkpoint(str(path), "gguf")
    write_gguf(path, architecture="qwen2")
    with pytest.raises(CheckpointError, match=r"is a folder.*it holds model\.gguf"):
        open_checkpoint(str(tmp_path), "gguf")
    with pytest.raises(CheckpointError, match=r"has no config_vacc\.json"):
        open_checkpoint(str(path), "gguf", vacc_config=True)
    for content, match in ((b"", "is empty"), (b"PK\3\4rest", "is no GGUF file"), (b"GGUF\0\0\0\3", "GGUF version")):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=match):
            open_checkpoint(str(path), "gguf")


def test_damaged_data_is_found_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, architecture="qwen2", quantization="Q8_0")
    reader = gguf.GGUFReader(path)
    tensor = next(tensor for tensor in reader.tensors if tensor.name == "blk.1.ffn_up.weight")
    at = int(tensor.data_offset) + 34 * 2 * 7  # the scale of row 7: blocks of 34 bytes, two a row
    content = bytearray(path.read_bytes())
    content[at : at + 2] = np.float16(np.nan).tobytes()
    path.write_bytes(content)
    checkpoint = open_checkpoint(str(path), "gguf")
    checkpoint.read("model.layers.1.mlp.up_proj.weight", 0, 7)
    with pytest.raises(CheckpointError, match=r"blk\.1\.ffn_up\.weight has values that are no numbers, first in row 7"):
        checkpoint.read("model.layers.1.mlp.up_proj.weight", 4, 20)


def test_the_number_of_layers_must_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.gguf"
    monkeypatch.setattr(gguf.GGUFWriter, "add_block_count", lambda writer, _: writer.add_uint32("qwen2.block_count", 9))
    write_gguf(path, architecture="qwen2")
    with pytest.raises(CheckpointError, match="the metadata says 9 layers and the tensors are those of 2"):
        open_checkpoint(str(path), "gguf")


def test_the_fingerprint_sees_weights_and_metadata(tmp_path: Path) -> None:
    def fingerprint(**changes: Any) -> str:
        write_gguf(tmp_path / "model.gguf", architecture="qwen2", **changes)
        return open_checkpoint(str(tmp_path / "model.gguf"), "gguf").fingerprint()

    prints = [fingerprint(), fingerprint(seed=1), fingerprint(rope_theta=5.0), fingerprint(quantization="F16")]
    assert len(set(prints)) == 4
    assert fingerprint() == prints[0]


def test_names_go_there_and_back() -> None:
    for name in ("model.layers.12.self_attn.q_norm.weight", "model.layers.0.self_attn.v_proj.bias", "lm_head.weight"):
        assert huggingface_name(gguf_name(name)) == name
    assert huggingface_name("blk.0.ffn_gate_inp.weight") == "blk.0.ffn_gate_inp.weight"
