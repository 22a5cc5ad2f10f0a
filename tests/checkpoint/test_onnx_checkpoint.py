"""ONNX graphs as checkpoints: names, lazy rows wherever the weights lie, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.checkpoints import write_checkpoint
from support.end_to_end import configuration

from vamc_py.checkpoint import open_checkpoint
from vamc_py.checkpoint.onnx_checkpoint import OnnxCheckpoint
from vamc_py.checkpoint.onnx_wire import load_without_weights
from vamc_py.errors import CheckpointError
from vamc_py.frontend.model_config import ModelConfig
from vamc_py.frontend.onnx_import.sizes import check_graph
from vamc_py.onnx_export.export import export

OPTIONS: dict[str, Any] = {"architecture": "qwen3", "layers": 2, "tied": False}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of graphs for a backend.dtype, each exported once, with its checkpoint beside it in ``model``."""
    root = tmp_path_factory.mktemp("graphs")
    write_checkpoint(root / "model", **OPTIONS)
    made: dict[str, Path] = {}

    def folder(dtype: str) -> Path:
        if dtype not in made:
            made[dtype] = export(configuration(root / "model", root / dtype, dtype=dtype, prefill=16, context=32))
        return made[dtype]

    return folder


@pytest.fixture
def graphs(exported: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy of the float graphs, to be damaged."""
    return Path(shutil.copytree(exported("fp32"), tmp_path / "graphs"))


def opened(path: Path) -> OnnxCheckpoint:
    checkpoint = open_checkpoint(str(path), "onnx")
    assert isinstance(checkpoint, OnnxCheckpoint)
    return checkpoint


def source_of(folder: Path) -> Any:
    return open_checkpoint(str(folder.parent.parent / "model"), "huggingface")


def test_float_tensors_are_those_of_the_checkpoint(exported: Callable[[str], Path]) -> None:
    ours, source = opened(exported("fp32")), source_of(exported("fp32"))
    weights = {name: info for name, info in ours.tensors.items() if not name.startswith("constant")}
    assert {name: info.shape for name, info in weights.items()} == {
        name: info.shape for name, info in source.tensors.items()
    }
    for name in weights:
        np.testing.assert_array_equal(ours.read(name), source.read(name))
        np.testing.assert_array_equal(ours.read(name, 3, 7), source.read(name, 3, 7))
        assert ours.file_of(name).name == "weights.bin"
    assert ours.quantized == {}
    with pytest.raises(IndexError, match="has 288 rows, not"):
        ours.read("lm_head.weight", 280, 289)


def test_int8_layers_are_quantized(exported: Callable[[str], Path]) -> None:
    ours, source = opened(exported("int8")), source_of(exported("int8"))
    assert len(ours.quantized) == 14
    for name, form in ours.quantized.items():
        assert (form.values, form.group, form.zeros) == ("int8", None, False)
        values, scale = ours.read(name), ours.read(name + ".scale")
        assert (values.dtype, scale.dtype, scale.shape) == (np.int8, np.float32, values.shape[:1])
        assert np.abs(form.dequantize(values, scale) - source.read(name)).max() <= scale.max() * 0.501


def test_weights_inside_the_file_stay_there(graphs: Path, tmp_path: Path) -> None:
    """What onnx.save writes without external data is read by rows too, and no weight is in memory with the graph."""
    model = onnx.load(graphs / "iter1.onnx")
    path = tmp_path / "whole.onnx"
    onnx.save(model, path)
    light = load_without_weights(path)
    assert len(light.SerializeToString()) < path.stat().st_size / 5
    whole, apart = opened(path), opened(graphs)
    assert whole.tensors == apart.tensors
    assert whole.file_of("lm_head.weight") == path
    for name in whole.tensors:
        np.testing.assert_array_equal(whole.read(name), apart.read(name))


def test_a_folder_names_its_graph(graphs: Path, tmp_path: Path) -> None:
    assert opened(graphs).path == graphs / "iter1.onnx"  # it says what the past is
    (graphs / "iter1.onnx").rename(graphs / "decode.onnx")
    assert opened(graphs).path == graphs / "iter0.onnx"
    assert opened(graphs / "decode.onnx").path == graphs / "decode.onnx"
    (graphs / "iter0.onnx").rename(graphs / "prefill.onnx")
    with pytest.raises(CheckpointError, match=r"several graphs \(decode.onnx, prefill.onnx\)"):
        opened(graphs)
    (graphs / "prefill.onnx").unlink()
    assert opened(graphs).path == graphs / "decode.onnx"
    with pytest.raises(CheckpointError, match=r"has no \.onnx file"):
        opened(tmp_path)
    with pytest.raises(CheckpointError, match="there is no ONNX file"):
        opened(tmp_path / "nowhere.onnx")


def test_sizes_without_a_config(graphs: Path) -> None:
    """Those of the config.json that would stand beside it; the positions are those of the graph."""
    said = ModelConfig.from_hf(opened(graphs).config)
    (graphs / "config.json").unlink()
    found = ModelConfig.from_hf(opened(graphs).config)
    assert found.max_positions == 32
    sizes = ("architecture", "layers", "hidden_size", "intermediate_size", "heads", "kv_heads", "head_dim")
    for key in (*sizes, "vocab_size", "tied_embedding"):
        assert getattr(found, key) == getattr(said, key)


def test_a_config_of_another_model_is_refused(graphs: Path) -> None:
    checkpoint = opened(graphs)
    model = ModelConfig.from_hf({**checkpoint.config, "num_hidden_layers": 3})
    with pytest.raises(CheckpointError, match=r"num_hidden_layers: 3 is said, and the graph iter1.onnx has 2"):
        check_graph(checkpoint, model, "fp32")


def test_int8_layers_need_an_int8_build(exported: Callable[[str], Path]) -> None:
    checkpoint = opened(exported("int8"))
    with pytest.raises(CheckpointError, match=r"14 layers are int8, which contradicts backend\.dtype fp16"):
        check_graph(checkpoint, ModelConfig.from_hf(checkpoint.config), "fp16")


def test_the_tokenizer_is_beside_the_graph(graphs: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    opened(graphs).save_tokenizer(tmp_path / "a")
    assert (tmp_path / "a/tokenizer.json").read_bytes() == (graphs / "tokenizer/tokenizer.json").read_bytes()
    shutil.rmtree(graphs / "tokenizer")
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json, .*copy the model's"):
        opened(graphs).save_tokenizer(tmp_path / "a")


def test_the_fingerprint_tells_graphs_apart(graphs: Path, tmp_path: Path) -> None:
    first = opened(graphs).fingerprint()
    copy = Path(shutil.copytree(graphs, tmp_path / "elsewhere/copy"))
    assert opened(copy).fingerprint() == first
    with (copy / "weights.bin").open("r+b") as file:
        data = file.read()
        file.seek(0)
        file.write(bytes(byte ^ 1 for byte in data))
    changed = opened(copy).fingerprint()
    (copy / "tokenizer/tokenizer_config.json").write_text("{}")
    assert len({first, changed, opened(copy).fingerprint()}) == 3


def damage(path: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.load(path, load_external_data=False)
    change(model)
    path.write_bytes(model.SerializeToString())


def _old(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 11


def _elsewhere(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].external_data[0].value = "../weights.bin"


def _longer(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[0] += 1


def _without_mask(model: onnx.ModelProto) -> None:
    del model.graph.input[1]


def _without_past(model: onnx.ModelProto) -> None:
    del model.graph.input[-1]


def _flat_mask(model: onnx.ModelProto) -> None:
    model.graph.input[1].CopyFrom(helper.make_tensor_value_info("attention_mask", TensorProto.INT64, [1, 32]))


def _two_sequences(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2


def _twice(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(model.graph.initializer[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_old, "of ONNX opset 11; export it with opset 13 or later"),
        (_elsewhere, "which is not beside the file"),
        (_longer, r"has \d+ bytes of data; float32 \[289, 64\] needs"),
        (_without_mask, "one input attention_mask is needed; the graph has input_ids"),
        (_without_past, "odd number of keys and values"),
        (_flat_mask, r"attention_mask is \[1, 32\]; \[1, 1, \?, \?\] is needed"),
        (_two_sequences, r"input_ids is \[2, 1\]; \[1, \?\] is needed"),
        (_twice, "is there twice"),
    ],
)
def test_what_does_not_fit_is_refused(graphs: Path, change: Callable[[Any], None], message: str) -> None:
    damage(graphs / "iter1.onnx", change)
    with pytest.raises(CheckpointError, match=message) as caught:
        opened(graphs)
    assert str(graphs / "iter1.onnx") in str(caught.value)


def test_scales_of_another_shape_are_refused(exported: Callable[[str], Path], tmp_path: Path) -> None:
    graphs = Path(shutil.copytree(exported("int8"), tmp_path / "graphs"))

    def swap(model: onnx.ModelProto) -> None:
        node = next(node for node in model.graph.node if node.domain == "Vastai")
        node.input[2] = "model.layers.0.mlp.up_proj.weight.scale"

    damage(graphs / "iter1.onnx", swap)
    with pytest.raises(
        CheckpointError, match=r"the scale of model\.layers\.0\.self_attn\.q_proj\.weight is .* not float \[N\]"
    ):
        opened(graphs)


def test_files_that_are_cut_are_refused(graphs: Path) -> None:
    path, weights = graphs / "iter1.onnx", graphs / "weights.bin"
    whole = path.read_bytes()
    for size in (0, 1, 100, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError):
            opened(graphs)
    path.write_bytes(whole)
    with weights.open("r+b") as file:
        file.truncate(weights.stat().st_size - 5)
    with pytest.raises(CheckpointError, match=r"weights\.bin ends before .*: it is truncated"):
        opened(graphs)
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"the weights' file weights\.bin is not beside it"):
        opened(graphs)


def test_another_file_is_no_graph(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    for content in (b"not an ONNX file", b"\x00" * 64, b"\xff" * 64):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="is no ONNX model"):
            opened(path)
