"""What validates but does not compile yet says so at its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from vamc_py.config import check_compilable, load_text
from vamc_py.errors import ConfigError

GOOD = """\
name: small
frontend:
  checkpoint: models/small
  type: huggingface
  shape:
    input_ids: [[512], [2048]]
  model_kwargs: {tp: 4, b2s: true}
backend:
  type: tvm_llvm
  dtype: int8
"""


def faults(*overrides: str) -> list[str]:
    loaded = load_text(GOOD, Path("c.yaml"), overrides)
    with pytest.raises(ConfigError) as caught:
        check_compilable(loaded)
    return caught.value.faults


@pytest.mark.parametrize("dtype", ["int8", "fp16", "bf16", "fp32"])
@pytest.mark.parametrize("kind", ["huggingface", "gguf", "onnx"])
def test_compiles(dtype: str, kind: str) -> None:
    check_compilable(load_text(GOOD, Path("c.yaml"), [f"backend.dtype={dtype}", f"frontend.type={kind}"]))


def test_target_at_the_place_of_the_file() -> None:
    loaded = load_text(GOOD.replace("tvm_llvm", "tvm_cuda"), Path("c.yaml"))
    with pytest.raises(ConfigError) as caught:
        check_compilable(loaded)
    assert caught.value.faults == [
        "c.yaml:9:9: backend.type: tvm_cuda is not there yet; this version compiles for tvm_llvm "
        "and tvm_vacc (--set backend.type=tvm_llvm)"
    ]


@pytest.mark.parametrize(
    ("override", "key", "message"),
    [
        (
            "backend.type=tvm_cuda",
            "backend.type",
            "tvm_cuda is not there yet; this version compiles for tvm_llvm and tvm_vacc (--set backend.type=tvm_llvm)",
        ),
        (
            "frontend.type=keras",
            "frontend.type",
            "keras is not there yet; this version compiles language models of type huggingface, gguf, onnx",
        ),
        (
            "frontend.shape.input_ids=[[512], []]",
            "frontend.shape.input_ids",
            "prefill only (an empty context list) is not there yet; name a context length, such as [[512], [1024]]",
        ),
        (
            "frontend.model_kwargs.build_visual=true",
            "frontend.model_kwargs.build_visual",
            "vision towers are not there yet",
        ),
    ],
)
def test_not_there_yet(override: str, key: str, message: str) -> None:
    assert faults(override) == [f"--set {override}: {key}: {message}"]


@pytest.mark.parametrize("dtype", ["int8", "fp16"])
@pytest.mark.parametrize("kind", ["huggingface", "gguf", "onnx"])
def test_compiles_for_vacc(dtype: str, kind: str) -> None:
    check_compilable(
        load_text(GOOD, Path("c.yaml"), ["backend.type=tvm_vacc", f"backend.dtype={dtype}", f"frontend.type={kind}"])
    )


@pytest.mark.parametrize(
    ("override", "key", "message"),
    [
        ("backend.dtype=bf16", "backend.dtype", "the vacc target has int8 and fp16, not bf16; name one of them"),
        (
            "frontend.quantize.activation=bf16",
            "frontend.quantize.activation",
            "the vacc target multiplies in float16 or, with int8_g32, int8_g64, int8_g128 or int8_token, in int8; name "
            "one of these, or leave it out for float16",
        ),
        (
            "frontend.quantize.accept={text: held_out.txt}",
            "frontend.quantize.accept",
            "a simulation is too slow to measure perplexity; compile for tvm_llvm to do so",
        ),
        (
            "frontend.quantize.type=w4a16_gptq",
            "frontend.quantize.type",
            "calibrates, and there is no section dataset; write one: name, path, nsamples and seqlen",
        ),
    ],
)
def test_what_vacc_does_not_have(override: str, key: str, message: str) -> None:
    loaded = load_text(GOOD.replace("tvm_llvm", "tvm_vacc"), Path("c.yaml"), [override])
    with pytest.raises(ConfigError) as caught:
        check_compilable(loaded)
    assert caught.value.faults == [f"--set {override}: {key}: {message}"]


def test_gptq_without_data_compiles_for_vacc_alone() -> None:
    asked = ["backend.type=tvm_vacc", "frontend.quantize.type=w8a16_gptq"]
    loaded = load_text(GOOD, Path("c.yaml"), asked)
    check_compilable(loaded)
    assert loaded.config.quantize_type == "w8a16"
    assert loaded.config.weight_rules == ()
    (fault,) = faults(asked[1])
    assert "calibrates, and there is no section dataset" in fault


@pytest.mark.parametrize(("key", "value"), [("type", "w8a16"), ("lm_head", "true")])
def test_quantization_of_float_weights_is_a_contradiction(key: str, value: str) -> None:
    (fault,) = faults("backend.dtype=bf16", f"frontend.quantize.{key}={value}")
    assert fault == (
        f"--set frontend.quantize.{key}={value}: frontend.quantize.{key}: contradicts backend.dtype bf16, which keeps "
        "floating-point weights; --set backend.dtype=int8, or --set frontend.quantize=null"
    )


def test_all_reasons_at_once() -> None:
    assert (
        len(faults("backend.type=tvm_cuda", "frontend.quantize.type=w16kv8", "frontend.shape.input_ids=[[16],[]]")) == 3
    )


@pytest.mark.parametrize(
    ("dtype", "quantize"),
    [("int8", "{type: w8a16, kv8: true}"), ("fp16", "{type: w16kv8}"), ("int8", "{type: w4a16, kv8: true}")],
)
def test_an_int8_cache_on_vacc(dtype: str, quantize: str) -> None:
    said = ("backend.type=tvm_vacc", f"backend.dtype={dtype}", f"frontend.quantize={quantize}")
    loaded = load_text(GOOD, Path("c.yaml"), said)
    check_compilable(loaded)
    assert loaded.config.kv8


def test_an_onnx_graph_with_a_flat_shape_is_another_network() -> None:
    text = GOOD.replace("[[512], [2048]]", "[1, 512]").replace("huggingface", "onnx")
    loaded = load_text(text, Path("c.yaml"))
    assert not loaded.config.language_model
    with pytest.raises(ConfigError) as caught:
        check_compilable(loaded)
    (fault,) = caught.value.faults
    assert "frontend.shape: of ONNX graphs, this version compiles those of language models" in fault


def test_lengths_of_an_onnx_language_model_are_checked() -> None:
    with pytest.raises(ConfigError, match="the prefill length 2048 is longer than the context length 1024"):
        load_text(GOOD, Path("c.yaml"), ["frontend.type=onnx", "frontend.shape.input_ids=[[2048], [1024]]"])
