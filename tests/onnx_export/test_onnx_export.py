"""``vamc-py export-onnx``: graphs that onnx's checker passes and that ONNX Runtime computes as torch does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from support.checkpoints import write_checkpoint, write_gguf
from support.end_to_end import configuration
from support.onnx_session import OnnxModel
from support.run_torch import built_in

from vamc_py.checkpoint import Checkpoint, TensorInfo, open_checkpoint
from vamc_py.cli import main
from vamc_py.errors import CheckpointError, ConfigError, UserError
from vamc_py.frontend.model_config import ModelConfig
from vamc_py.onnx_export.export import export
from vamc_py.weights.formats import WeightFormat

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
TOKENS = np.random.default_rng(3).integers(0, 288, size=24).tolist()


@torch.no_grad()
def torch_rows(checkpoint: Checkpoint, *, quantized: bool) -> np.ndarray[Any, Any]:
    """The logits of our torch model behind every token."""
    model = ModelConfig.from_hf(checkpoint.config)
    weights = {name: torch.from_numpy(checkpoint.read(name).astype(np.float32)) for name in checkpoint.tensors}
    module = built_in(model, weights)
    if quantized:
        module.quantize(8)
    n = len(TOKENS)
    mask = torch.full((n, n), torch.finfo(torch.float32).min).triu(1)[None, None]
    empty = torch.zeros((1, model.kv_heads, 0, model.head_dim))
    past = [(empty, empty) for _ in range(model.layers)]
    rows: np.ndarray[Any, Any] = module(torch.tensor([TOKENS]), mask, torch.arange(n)[None], past)[0][0].numpy()
    return rows


@pytest.mark.parametrize(
    ("architecture", "dtype", "dynamic", "options"),
    [
        ("qwen3", "int8", False, {"rope_scaling": YARN}),
        ("qwen2", "int8", True, {"tied": False, "heads": 6, "kv_heads": 2, "hidden": 96}),
        ("qwen2", "fp32", False, {"kv_heads": 4}),
        ("llama", "fp16", True, {"layers": 1}),
        ("qwen3", "bf16", True, {"layers": 1, "head_dim": 32}),
    ],
)
def test_onnx_runtime_computes_what_torch_computes(
    tmp_path: Path, architecture: str, dtype: str, dynamic: bool, options: dict[str, Any]
) -> None:
    """A prompt through iter0, then a token a time through iter1, with the past that they return."""
    stored = {"fp16": "float16", "bf16": "bfloat16"}.get(dtype, "float32")  # so that no value is rounded on the way
    write_checkpoint(tmp_path / "model", architecture=architecture, scale=0.3, dtype=stored, **options)
    folder = export(configuration(tmp_path / "model", tmp_path, dtype=dtype, prefill=16, context=32), dynamic=dynamic)
    rows = torch_rows(open_checkpoint(str(tmp_path / "model"), "huggingface"), quantized=dtype == "int8")
    runtime = OnnxModel(folder)
    logits = [runtime.read(TOKENS[:16]), *(runtime.step(token) for token in TOKENS[16:])]
    assert rows.std() > 0.5  # the comparison is about something
    np.testing.assert_allclose(np.stack(logits), rows[15:], rtol=0, atol=1e-5 * np.abs(rows).max())


def test_a_gguf_file_is_exported_too(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, architecture="qwen2", quantization="Q8_0", scale=0.3)
    folder = export(configuration(path, tmp_path, dtype="int8", prefill=16, context=32))
    rows = torch_rows(open_checkpoint(str(path), "gguf"), quantized=True)
    np.testing.assert_allclose(OnnxModel(folder).read(TOKENS[:16]), rows[15], rtol=0, atol=1e-5 * np.abs(rows).max())


def test_int8_layers_are_the_custom_node(tmp_path: Path) -> None:
    """Seven a layer, over int8 [N, K] and f32 [N]; embedding and lm_head stay float; the definition is in the model."""
    write_checkpoint(tmp_path / "model", architecture="qwen2", tied=False)
    folder = export(configuration(tmp_path / "model", tmp_path, dtype="int8", prefill=16, context=32))
    source = open_checkpoint(str(tmp_path / "model"), "huggingface")
    for name in ("iter0", "iter1"):
        model = onnx.load(folder / f"{name}.onnx")  # with the weights
        stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        nodes = [node for node in model.graph.node if node.domain == "Vastai"]
        assert len(nodes) == 14
        assert {node.op_type for node in nodes} == {"QuantizedLinearPerChannel"}
        for node in nodes:
            _, weight, scale = node.input
            exact = source.read(weight)
            expected = np.abs(exact).max(axis=1) / np.float32(127)
            np.testing.assert_array_equal(stored[scale], expected)
            assert stored[weight].dtype == np.int8
            np.testing.assert_array_equal(stored[weight], np.rint(exact / expected[:, None]))
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            np.testing.assert_array_equal(stored[name], source.read(name))
        assert [(one.domain, one.name) for one in model.functions] == [("Vastai", "QuantizedLinearPerChannel")]


def test_static_and_dynamic_shapes(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "model", architecture="qwen3", layers=1)
    loaded = configuration(tmp_path / "model", tmp_path, prefill=16, context=48)

    def shapes(name: str) -> dict[str, list[int | str]]:
        graph = onnx.load(tmp_path / "model-onnx" / name, load_external_data=False).graph
        return {
            value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
            for value in [*graph.input, *graph.output]
        }

    export(loaded)
    assert shapes("iter0.onnx") == {
        "input_ids": [1, 16],
        "attention_mask": [1, 1, 16, 16],
        "position_ids": [1, 16],
        "logits": [1, 1, 288],
        "present.0.key": [1, 2, 16, 16],
        "present.0.value": [1, 2, 16, 16],
    }
    assert shapes("iter1.onnx") == {
        "input_ids": [1, 1],
        "attention_mask": [1, 1, 1, 48],
        "position_ids": [1, 1],
        "past_key_values.0.key": [1, 2, 47, 16],
        "past_key_values.0.value": [1, 2, 47, 16],
        "logits": [1, 1, 288],
        "present.0.key": [1, 2, 48, 16],
        "present.0.value": [1, 2, 48, 16],
    }
    export(loaded, dynamic=True)  # in place of the other
    assert shapes("iter0.onnx")["attention_mask"] == [1, 1, "new", "new"]
    assert shapes("iter1.onnx")["attention_mask"] == [1, 1, "new", "total"]
    assert shapes("iter1.onnx")["past_key_values.0.key"] == [1, 2, "past", 16]


def test_the_command_prints_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The backend need not be one that compiles: the graphs are for other toolchains."""
    write_checkpoint(tmp_path / "model", architecture="qwen3", layers=1)
    config = tmp_path / "c.yaml"
    config.write_text(
        f"name: tiny\nfrontend:\n  checkpoint: {tmp_path / 'model'}\n  shape: {{input_ids: [[16], [32]]}}\n"
        f"backend: {{type: tvm_vacc, dtype: int8}}\nworkspace: {{path: {tmp_path}}}\n"
    )
    with pytest.raises(SystemExit) as left:
        main(["export-onnx", str(config)])
    assert left.value.code in (0, None)
    assert capsys.readouterr().out == f"{tmp_path / 'tiny-onnx'}\n"
    files = sorted(path.relative_to(tmp_path / "tiny-onnx").as_posix() for path in (tmp_path / "tiny-onnx").rglob("*"))
    assert files == [
        "config.json", "generation_config.json", "iter0.onnx", "iter1.onnx",
        "tokenizer", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json", "weights.bin",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("frontend.quantize.type=w8a16_gptq", "w8a16_gptq cannot be exported"),
        ("frontend.shape.input_ids=[[16], []]", "iter1 is the graph that decodes"),
        ("frontend.model_kwargs.trust_remote_code=true", "vamc-py's own model"),
        ("frontend.type=keras", "only language models of type huggingface and gguf"),
    ],
)
def test_what_is_not_exported_is_said_with_its_place(tmp_path: Path, override: str, message: str) -> None:
    loaded = configuration(tmp_path / "model", tmp_path, dtype="int8", overrides=[override])
    with pytest.raises(ConfigError, match=message) as caught:
        export(loaded)
    assert caught.value.faults[0].startswith(f"--set {override}: ")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_no_numbers_leave_nothing(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "model", architecture="qwen3", layers=1)
    path = tmp_path / "model/model.safetensors"
    data = bytearray(path.read_bytes())
    data[-4:] = np.float32("nan").tobytes()
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="not finite"):
        export(configuration(tmp_path / "model", tmp_path, dtype="int8"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_somebody_elses_folder_is_not_replaced(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "model", architecture="qwen3", layers=1)
    (tmp_path / "model-onnx").mkdir()
    (tmp_path / "model-onnx/thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match=r"exists and is not what this command writes .*with iter0.onnx"):
        export(configuration(tmp_path / "model", tmp_path))
    assert (tmp_path / "model-onnx/thesis.txt").read_text() == "years of work"


class Quantized(Checkpoint):
    """A checkpoint whose layers come quantized: int8, rounded by another rule than ours."""

    def __init__(self, source: Checkpoint, form: WeightFormat) -> None:
        self.source = source
        self.path, self.config_file = source.path, source.config_file
        self.config, self.generation_config = source.config, source.generation_config
        self.quantized = {name: form for name in source.tensors if name.endswith("_proj.weight")}
        self.tensors = dict(source.tensors)
        for name in self.quantized:
            rows, columns = source.tensors[name].shape
            self.tensors[name] = TensorInfo(name, (rows, columns), form.dtype)
            self.tensors[name + ".scale"] = TensorInfo(name + ".scale", form.scale_shape(rows, columns), form.scale)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Any:
        base = name.removesuffix(".scale")
        if base not in self.quantized:
            return self.source.read(name, start, stop)
        scale = np.abs(self.source.read(base, start, stop)).max(axis=1).astype(np.float16) / np.float16(100)
        if name != base:
            return scale
        return np.rint(self.source.read(base, start, stop) / scale[:, None].astype(np.float32)).astype(np.int8)

    def file_of(self, name: str) -> Path:
        return self.source.file_of(name.removesuffix(".scale"))

    def save_tokenizer(self, folder: Path) -> None:
        self.source.save_tokenizer(folder)

    def fingerprint(self) -> str:
        return self.source.fingerprint()


def open_quantized(monkeypatch: pytest.MonkeyPatch, folder: Path, form: WeightFormat) -> Checkpoint:
    """Makes the export find such a checkpoint."""
    checkpoint = Quantized(open_checkpoint(str(folder), "huggingface"), form)
    model = ModelConfig.from_hf(checkpoint.config)
    monkeypatch.setattr("vamc_py.onnx_export.export.open_model", lambda config: (checkpoint, model))
    return checkpoint


def test_weights_that_come_as_int8_are_not_rounded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path / "model", architecture="qwen3", layers=1)
    checkpoint = open_quantized(monkeypatch, tmp_path / "model", WeightFormat("int8", scale="float16"))
    folder = export(configuration(tmp_path / "model", tmp_path, dtype="int8", prefill=16, context=32))
    stored = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(folder / "iter1.onnx").graph.initializer
    }
    for name in checkpoint.quantized:
        np.testing.assert_array_equal(stored[name], checkpoint.read(name))
        np.testing.assert_array_equal(stored[name + ".scale"], checkpoint.read(name + ".scale").astype(np.float32))


@pytest.mark.parametrize(
    ("form", "dtype", "said"),
    [
        (WeightFormat("int4", group=32), "int8", "int4, groups of 32"),
        (WeightFormat("int8", zeros=True), "int8", "int8, a scale a row, zero points"),
        (WeightFormat("int8"), "fp16", "int8, a scale a row"),
    ],
)
def test_other_quantized_weights_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: WeightFormat, dtype: str, said: str
) -> None:
    write_checkpoint(tmp_path / "model", architecture="qwen3", layers=1)
    open_quantized(monkeypatch, tmp_path / "model", form)
    with pytest.raises(CheckpointError, match=rf"q_proj\.weight is quantized already \({said}\)"):
        export(configuration(tmp_path / "model", tmp_path, dtype=dtype))
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]
