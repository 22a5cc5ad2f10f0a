"""Good files: what they load to, where values came from, and the text stored in an artifact."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from vamc_py.config import LoadedConfig, load_config, load_text

EXAMPLES = Path(__file__).parents[2] / "examples"

SMALL = """\
name: small
frontend:
  checkpoint: models/small
  shape:
    input_ids: [[512, 1024], [2048]]
backend:
  type: tvm_llvm
  dtype: int8
"""

# Each key of vamc's language-model vocabulary, with values of the kinds that public files have.
LANGUAGE_MODEL = """\
name: Some-8B-int8-tp4-1024-2048
frontend:
  checkpoint: /models/Some-8B
  type: huggingface
  shape:
    input_ids: [[1024],[2048]]
  model_kwargs:
    b2s: on
    tp: 4
    model_arch: vacc   # a comment
    align_qkv: false
  quantize:
    type: w8a16_gptq
    device: cuda:5
    calib_args: {true_sequential: false, wbits: 8, damp_percent: 0.01, blocksize: 128, desc_act: false, onegroup: true}
backend:
  type: tvm_vacc
  dtype: int8
  merge_params: true
  compile:
    data_type: 0
    gather_data_vccl_dsp_enable: true
dataset:
  type: huggingface
  name: alpaca
  path: /data/alpaca.json
  nsamples: 128
  seqlen: 512
workspace:
  path: ./vacc_deploy
  workers: 4
  pyenv:
    transformers: 4.51.3
    huggingface-hub: 0.30
  env_recheck: false
"""

# A network of the other kind: no type but a file ending, old key names, dotted input names, image preprocessing.
OTHER_NETWORK = """\
model: some_detector
frontend:
  checkpoint: nets/detector.onnx
  dtype: fp32
  shape:
    input.1: [1, 3, 640, 640]
    /feat/Add_0: [[1, 192, 128, 128], [1, 192, 512, 512]]
backend:
  dtype: int8
  compile:
  quantize: {alibrate_mode: percentile, skip_conv_layers: [0, 2], calibrate_range: 0.99999}
graph:
  extra_ops:
    type: null
    params: {anchor: [10, 13], score: 0.1}
dataset:
  process_ops:
  - {type: Resize, size: [640, -1], adaptive_side: long}
  - {type: Normalize, div255: true, norm_type: null, mean: [0.5, 0, 1]}
workspace:
  work_dir: ./out
  save_log: yes
"""


def _load(text: str, *overrides: str) -> LoadedConfig:
    return load_text(text, Path("some.yaml"), overrides)


def test_small_file() -> None:
    loaded = _load(SMALL)
    config = loaded.config
    assert loaded.notices == ()
    assert (config.prefill_length, config.context_length, config.prefill_only) == (1024, 2048, False)
    assert (config.target, config.quantize_type, config.quantize_lm_head) == ("llvm", "w8a16", True)
    assert config.frontend.type == "huggingface"
    assert config.artifact_dir == Path("vacc_deploy/small")
    assert not config.frontend.model_kwargs.trust_remote_code


def test_language_model_vocabulary() -> None:
    config = _load(LANGUAGE_MODEL).config
    assert config.frontend.model_kwargs.b2s is True
    assert config.quantize_type == "w8a16_gptq"
    assert config.quantize_lm_head is False  # vamc quantizes neither lm_head nor the embedding
    assert config.frontend.quantize is not None
    assert config.frontend.quantize.calib_args is not None
    assert config.frontend.quantize.calib_args.damp_percent == 0.01
    assert config.workspace.pyenv == {"transformers": "4.51.3", "huggingface-hub": "0.30"}  # 0.30 is no number


def test_other_network() -> None:
    loaded = _load(OTHER_NETWORK)
    config = loaded.config
    assert (config.name, config.workspace.path, config.frontend.type) == ("some_detector", "./out", "onnx")
    assert config.backend.type == "tvm_vacc"  # vamc's only target is its default
    assert config.quantize_type is None
    assert config.backend.quantize is not None
    assert config.backend.quantize.calibrate_mode == "percentile"
    assert loaded.notices[:3] == (
        "some.yaml:1:1: model is read as name.",
        "some.yaml:21:3: workspace.work_dir is read as workspace.path.",
        "some.yaml:11:14: backend.quantize.alibrate_mode is read as backend.quantize.calibrate_mode.",
    )
    with pytest.raises(ValueError, match="some_detector is not a language model"):
        _ = config.prefill_length


def test_prefill_only() -> None:
    config = _load(SMALL, "frontend.shape.input_ids=[[512], []]").config
    assert (config.prefill_length, config.context_length, config.prefill_only) == (512, 512, True)


@pytest.mark.parametrize(
    ("checkpoint", "kind"),
    [("a/b.gguf", "gguf"), ("b.PB", "tensorflow"), ("Qwen/Qwen2.5-0.5B", "huggingface"), ("folder", "huggingface")],
)
def test_type_by_file_ending(checkpoint: str, kind: str) -> None:
    assert _load(SMALL, f"frontend.checkpoint={checkpoint}").config.frontend.type == kind


@pytest.mark.parametrize(
    ("dtype", "lm_head", "expected"),
    [("int8", "null", True), ("int8", "false", False), ("fp16", "null", False), ("fp16", "true", False)],
)
def test_lm_head_follows_dtype_and_file(dtype: str, lm_head: str, expected: bool) -> None:
    config = _load(SMALL, f"backend.dtype={dtype}", f"frontend.quantize.lm_head={lm_head}").config
    assert config.quantize_lm_head is expected


def test_config_is_frozen() -> None:
    config = _load(SMALL).config
    with pytest.raises(ValidationError, match="frozen"):
        config.backend.dtype = "fp16"


def test_origins() -> None:
    loaded = _load(SMALL, "backend.dtype=fp16")
    assert loaded.origins["frontend.checkpoint"] == "some.yaml:3:15"
    assert loaded.origins["frontend.shape"] == "some.yaml:4:3"
    assert loaded.origins["frontend.shape.input_ids[0][1]"] == "some.yaml:5:23"
    assert loaded.origins["backend.dtype"] == "--set backend.dtype=fp16"
    assert loaded.place("frontend.quantize.type") == "some.yaml:2:1"  # absent: its section's place
    assert loaded.place("workspace.path") == "some.yaml:1:1"
    assert loaded.fault("frontend.checkpoint", "not there") == "some.yaml:3:15: frontend.checkpoint: not there"


@pytest.mark.parametrize("text", [SMALL, LANGUAGE_MODEL, OTHER_NETWORK], ids=["small", "language", "other"])
def test_stored_text_loads_to_the_same_config(text: str) -> None:
    loaded = _load(text)
    again = load_text(loaded.text, Path("config.yaml"))
    assert again.config == loaded.config
    assert again.text == loaded.text


def test_stored_text_holds_overrides_and_not_the_file_order() -> None:
    top, backend = SMALL.split("backend:")
    reordered = "backend:" + backend + top
    assert _load(SMALL, "backend.dtype=fp32").text == _load(reordered, "backend.dtype=fp32").text
    assert "dtype: fp32" in _load(SMALL, "backend.dtype=fp32").text


@pytest.mark.parametrize(
    "name", ["a b", "模型", "🦙", "x\u0085y", "\u2028x", "\ufeffx", " x ", "- x", "#x", "*x", "12", "true", "a: b"]
)
def test_stored_text_keeps_any_name(name: str) -> None:
    loaded = _load(SMALL.replace("name: small", "name: " + yaml.safe_dump(name, default_style='"').strip()))
    assert loaded.config.name == name
    assert load_text(loaded.text, Path("config.yaml")).config == loaded.config


def test_alias_counts_as_its_value() -> None:
    text = SMALL.replace("[[512, 1024], [2048]]", "[&n [512], *n]")
    config = _load(text).config
    assert (config.prefill_length, config.context_length) == (512, 512)


def test_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    file = tmp_path / "windows.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + SMALL.replace("\n", "\r\n").encode())
    assert load_config(file).config == _load(SMALL).config


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.yaml")), ids=lambda file: file.name)
def test_examples_compile_here_and_leave_nothing_unused(file: Path) -> None:
    from vamc_py.config import check_compilable

    loaded = load_config(file)
    check_compilable(loaded)
    assert loaded.notices == ()
    first = file.read_text(encoding="utf-8").splitlines()[:6]
    assert f"#   vamc-py compile examples/{file.name}" in first
    assert any(f"vamc-py run {loaded.config.artifact_dir}" in line for line in first)


def test_there_are_seven_examples() -> None:
    assert len(list(EXAMPLES.glob("*.yaml"))) >= 7
