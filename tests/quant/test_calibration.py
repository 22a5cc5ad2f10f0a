"""A whole calibration: its result as a checkpoint, resuming after a kill, the cache, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.checkpoints import write_checkpoint

from vamc_py.checkpoint import Checkpoint, open_checkpoint
from vamc_py.config.frontend import CalibrationArguments
from vamc_py.errors import CheckpointError, UserError
from vamc_py.frontend.model_config import ModelConfig, expected_tensors
from vamc_py.quant import calibrated as calibrated_module
from vamc_py.quant import calibration, gptq, hidden
from vamc_py.quant.cache import default_cache
from vamc_py.quant.calibrated import CalibratedCheckpoint
from vamc_py.quant.calibration import calibrate
from vamc_py.quant.faults import CalibrationError
from vamc_py.quant.layerwise import LayerwiseModel
from vamc_py.quant.options import Method
from vamc_py.weights.formats import SCALE, ZERO, WeightFormat
from vamc_py.weights.rounded import round_to_nearest

INT4 = WeightFormat("int4", 32)
INT8 = WeightFormat("int8")
ZEROS = WeightFormat("int4", 64, zeros=True, scale="float16")
TOKENS = np.random.default_rng(1).integers(0, 288, (6, 30))
METHODS: tuple[Method, ...] = ("gptq", "awq")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(path, architecture="qwen2", layers=3, scale=0.2)
    return path


@pytest.fixture
def checkpoint(folder: Path) -> Checkpoint:
    return open_checkpoint(str(folder), "huggingface")


def weights_of(checkpoint: Checkpoint) -> list[str]:
    return [name for name in checkpoint.tensors if name.endswith("_proj.weight")]


def run(
    checkpoint: Checkpoint,
    cache: Path,
    plan: dict[str, WeightFormat] | None = None,
    method: Method = "gptq",
    tokens: np.ndarray = TOKENS,
    **arguments: Any,
) -> CalibratedCheckpoint:
    plan = dict.fromkeys(weights_of(checkpoint), INT4) if plan is None else plan
    model = ModelConfig.from_hf(checkpoint.config)
    return calibrate(checkpoint, model, tokens, plan, method, CalibrationArguments(**arguments), cache)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def final_hidden(checkpoint: Checkpoint) -> np.ndarray:
    return LayerwiseModel(checkpoint, ModelConfig.from_hf(checkpoint.config)).final_hidden(TOKENS)


@pytest.mark.parametrize("method", METHODS)
def test_the_result_is_a_checkpoint_with_quantized_weights(
    checkpoint: Checkpoint, tmp_path: Path, method: Method
) -> None:
    at = "model.layers.{}."
    plan = {
        at.format(0) + "self_attn.q_proj.weight": INT8,
        at.format(0) + "self_attn.v_proj.weight": ZEROS,
        at.format(2) + "mlp.down_proj.weight": INT4,
    }
    found = run(checkpoint, tmp_path, plan, method)
    assert found.quantized == plan
    for name, form in plan.items():
        rows, columns = checkpoint.tensors[name].shape
        assert (found.tensors[name].dtype, found.tensors[name].shape) == ("int8", (rows, columns))
        assert found.tensors[name + SCALE].dtype == form.scale
        assert found.tensors[name + SCALE].shape == form.scale_shape(rows, columns)
        assert (name + ZERO in found.tensors) == form.zeros
        values = found.read(name)
        np.testing.assert_array_equal(found.read(name, 3, 9), values[3:9])
        if form.values == "int4":
            assert values.min() >= -8
            assert values.max() <= 7
    others = set(checkpoint.tensors) - set(plan)
    assert others <= set(found.tensors)
    changed = {name for name in others if not np.array_equal(found.read(name), checkpoint.read(name))}
    if method == "gptq":
        assert changed == set()
    else:
        assert changed <= {name for name in others if name.startswith((at.format(0), at.format(2)))}
    assert sorted(path.name for path in found.folder.iterdir()) == [
        "calibration.json",
        "layer-00000.safetensors",
        "layer-00002.safetensors",
    ]
    assert found.fingerprint() != checkpoint.fingerprint()
    assert found.file_of(at.format(0) + "self_attn.q_proj.weight").name == "layer-00000.safetensors"
    assert found.file_of("model.norm.weight") == checkpoint.file_of("model.norm.weight")


class Nearest(Checkpoint):
    """The weights rounded to nearest, in float32."""

    def __init__(self, base: Checkpoint, form: WeightFormat) -> None:
        self.base, self.form = base, form
        self.path, self.tensors = base.path, base.tensors

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        values = self.base.read(name)
        if name in weights_of(self.base):
            values = round_to_nearest(np.array(values, np.float32), self.form).floats()
        return values[start:stop]

    def file_of(self, name: str) -> Path:
        return self.base.file_of(name)

    def save_tokenizer(self, folder: Path) -> None:
        self.base.save_tokenizer(folder)

    def fingerprint(self) -> str:
        return "nearest"


@pytest.mark.parametrize("arguments", [{}, {"true_sequential": False}, {"desc_act": True}, {"blocksize": 24}], ids=str)
def test_gptq_s_model_is_nearer_to_the_float_one_than_rounding(
    checkpoint: Checkpoint, tmp_path: Path, arguments: dict[str, Any]
) -> None:
    exact, plan = final_hidden(checkpoint), dict.fromkeys(weights_of(checkpoint), INT4)
    model = ModelConfig.from_hf(checkpoint.config)
    nearest = LayerwiseModel(Nearest(checkpoint, INT4), model).final_hidden(TOKENS)
    found = final_hidden(run(checkpoint, tmp_path, plan, **arguments))
    assert np.square(found - exact).sum() < 0.7 * np.square(nearest - exact).sum()


def test_true_sequential_sees_the_quantized_layers_before(checkpoint: Checkpoint, tmp_path: Path) -> None:
    default, sequential, parallel = (
        run(checkpoint, tmp_path, **arguments)
        for arguments in ({}, {"true_sequential": True}, {"true_sequential": False})
    )
    assert default.folder == sequential.folder != parallel.folder
    first, last = "model.layers.0.self_attn.k_proj.weight", "model.layers.0.mlp.down_proj.weight"
    np.testing.assert_array_equal(sequential.read(first), parallel.read(first))  # nothing before it is quantized
    assert (sequential.read(last) != parallel.read(last)).any()


class Killed(BaseException):
    """As a signal ends a process."""


@pytest.mark.parametrize("finished", [0, 1, 2])
@pytest.mark.parametrize("method", METHODS)
def test_a_killed_calibration_goes_on_where_it_was(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: Method, finished: int
) -> None:
    whole = contents(run(checkpoint, tmp_path / "whole", method=method).folder)
    quantize, done = calibration._METHODS[method], []

    def killed_after(*args: Any, **kwargs: Any) -> Any:
        if len(done) == finished:
            raise Killed
        done.append(quantize(*args, **kwargs))
        return done[-1]

    monkeypatch.setitem(calibration._METHODS, method, killed_after)
    with pytest.raises(Killed):
        run(checkpoint, tmp_path / "killed", method=method)
    [left] = (tmp_path / "killed").iterdir()
    assert len(list(left.glob("layer-*"))) == finished
    with pytest.raises(CheckpointError, match="was not finished; run it again"):
        CalibratedCheckpoint(checkpoint, left)
    finished = 3  # from now on no kill comes
    del done[:]
    resumed = run(checkpoint, tmp_path / "killed", method=method)
    assert contents(resumed.folder) == whole


def test_nothing_half_written_stays(checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(calibrated_module.os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\); make room, or set VAMC_CACHE"):
        run(checkpoint, tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_no_room_for_the_hidden_states(checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hidden, "MOST_IN_MEMORY", 1000)
    monkeypatch.setattr(hidden.os, "posix_fallocate", full)
    with pytest.raises(UserError, match="No space left on device"):
        run(checkpoint, tmp_path)


def test_a_finished_calibration_is_only_read(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(checkpoint, tmp_path)
    monkeypatch.setattr(calibration, "LayerwiseModel", None)
    again = run(checkpoint, tmp_path, damp_percent=0.01)  # the default, said
    assert again.folder == first.folder
    assert again.fingerprint() == first.fingerprint()
    with pytest.raises(TypeError):
        run(checkpoint, tmp_path, damp_percent=0.02)


def test_the_cache_is_kept_by_all_that_matters(checkpoint: Checkpoint, folder: Path, tmp_path: Path) -> None:
    plan = {"model.layers.0.mlp.down_proj.weight": INT4}
    other = tmp_path / "other"
    write_checkpoint(other, architecture="qwen2", layers=3, scale=0.2, seed=1)
    results = [
        run(checkpoint, tmp_path / "cache", plan),
        run(checkpoint, tmp_path / "cache", plan, "awq"),
        run(checkpoint, tmp_path / "cache", plan, damp_percent=0.1),
        run(checkpoint, tmp_path / "cache", plan, tokens=TOKENS[:5]),
        run(checkpoint, tmp_path / "cache", plan, tokens=TOKENS.reshape(5, 36)),
        run(checkpoint, tmp_path / "cache", dict.fromkeys(plan, INT8)),
        run(open_checkpoint(str(other), "huggingface"), tmp_path / "cache", plan),
    ]
    assert len({result.folder for result in results}) == len(results)
    assert len({result.fingerprint() for result in results}) == len(results)
    # What AWQ does not read does not part its results.
    assert run(checkpoint, tmp_path / "cache", plan, "awq", blocksize=32).folder == results[1].folder


def test_another_run_s_layers_are_taken(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs of the same calibration at the same time: what one has finished, the other reads."""
    whole = contents(run(checkpoint, tmp_path / "whole").folder)
    quantize, calls = calibration._METHODS["gptq"], []

    def beside_another(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) == 1:
            run(checkpoint, tmp_path / "shared")  # runs through while this one is at its first layer
        return quantize(*args, **kwargs)

    monkeypatch.setitem(calibration._METHODS, "gptq", beside_another)
    shared = run(checkpoint, tmp_path / "shared")
    assert len(calls) == 4  # three of the other's, and the first of this one
    assert contents(shared.folder) == whole


def test_layers_without_planned_weights_are_passed(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """A later layer's inputs are those behind the quantized layers before it, float ones included."""
    plan = {"model.layers.1.mlp.up_proj.weight": INT8}
    engine = LayerwiseModel(checkpoint, ModelConfig.from_hf(checkpoint.config))
    states = engine.embed(TOKENS)
    engine.run(engine.load(0), states, keep=True)
    method = calibration._METHODS["gptq"]
    options = calibration.Options()
    wanted = method(engine, engine.load(1), states, {"mlp.up_proj": INT8}, options, carry=False)
    found = run(checkpoint, tmp_path, plan)
    np.testing.assert_array_equal(found.read("model.layers.1.mlp.up_proj.weight"), wanted["mlp.up_proj.weight"])


def test_a_log_gets_a_line_for_each_layer(
    checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(checkpoint, tmp_path)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[1].strip() for line in lines] == ["layers: 1 of 3", "layers: 2 of 3", "layers: 3 of 3"]
    assert lines[0].endswith("s left")


@pytest.mark.parametrize(
    ("name", "form", "message"),
    [
        ("model.embed_tokens.weight", INT8, "only those are calibrated"),
        ("lm_head.weight", INT8, "only those are calibrated"),
        ("model.layers.0.input_layernorm.weight", INT8, "only those are calibrated"),
        ("model.layers.3.mlp.up_proj.weight", INT8, "only those are calibrated"),
        ("model.layers.0.mlp.up_proj.weight", WeightFormat("float8_e4m3fn"), "int8 and int4 are"),
    ],
)
def test_plans_that_cannot_be_calibrated(
    checkpoint: Checkpoint, tmp_path: Path, name: str, form: WeightFormat, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(checkpoint, tmp_path, {name: form})
    assert list(tmp_path.iterdir()) == []


def test_an_empty_plan_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs weights"):
        run(checkpoint, tmp_path, {})


@pytest.mark.parametrize(
    ("form", "arguments", "key"),
    [(INT4, {"wbits": 8}, "wbits"), (INT8, {"wbits": 4}, "wbits"), (INT4, {"onegroup": True}, "onegroup")],
)
def test_settings_that_contradict_the_type(
    checkpoint: Checkpoint, tmp_path: Path, form: WeightFormat, arguments: dict[str, Any], key: str
) -> None:
    with pytest.raises(CalibrationError, match=f"^frontend.quantize.calib_args.{key}: .* leave {key} out"):
        run(checkpoint, tmp_path, {"model.layers.0.mlp.up_proj.weight": form}, **arguments)


def test_settings_that_agree_are_taken(checkpoint: Checkpoint, tmp_path: Path) -> None:
    plan = {"model.layers.0.mlp.up_proj.weight": INT8}
    assert run(checkpoint, tmp_path, plan, wbits=8, onegroup=True).quantized == plan


def test_samples_longer_than_the_model_s_positions(checkpoint: Checkpoint, tmp_path: Path) -> None:
    tokens = np.zeros((1, 513), np.int64)
    with pytest.raises(CalibrationError, match=r"^dataset\.seqlen: 513 tokens are more than the 512 positions"):
        run(checkpoint, tmp_path, {"model.layers.0.mlp.up_proj.weight": INT8}, tokens=tokens)


def test_a_hessian_without_a_factor_is_said(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise gptq.HessianError("the Hessian is not positive definite")

    monkeypatch.setattr(gptq, "_factor", fails)
    with pytest.raises(CalibrationError, match=r"damp_percent: with 0\.01 GPTQ fails at the inputs of mlp\.up_proj"):
        run(checkpoint, tmp_path, {"model.layers.0.mlp.up_proj.weight": INT8})
    assert list(tmp_path.glob("*/layer-*")) == []


def test_weights_that_come_quantized_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    first = run(checkpoint, tmp_path, {name: INT8})
    with pytest.raises(CalibrationError, match=f"{name} comes quantized; calibrate the float checkpoint"):
        run(first, tmp_path, {name: INT4})
    other = {"model.layers.1.mlp.down_proj.weight": INT4}
    with pytest.raises(CalibrationError, match="AWQ rescales float weights"):
        run(first, tmp_path, other, "awq")
    second = run(first, tmp_path, other)
    assert second.quantized == {name: INT8} | other
    np.testing.assert_array_equal(second.read(name), first.read(name))


def test_a_damaged_cache_is_named(checkpoint: Checkpoint, tmp_path: Path) -> None:
    plan = {"model.layers.0.mlp.up_proj.weight": INT8}
    file = run(checkpoint, tmp_path, plan).folder / "layer-00000.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-3])
    with pytest.raises(CheckpointError, match=r"a cached calibration is damaged; remove .*layer-00000"):
        run(checkpoint, tmp_path, plan)
    file.write_bytes(whole.replace(b"scale", b"scole"))
    with pytest.raises(CheckpointError, match=r"the calibration lacks .*up_proj\.weight\.scale"):
        run(checkpoint, tmp_path, plan)


def test_a_calibration_of_another_checkpoint_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    found = run(checkpoint, tmp_path / "cache", {"model.layers.0.mlp.up_proj.weight": INT8})
    write_checkpoint(tmp_path / "other", architecture="qwen2", layers=3, seed=4)
    with pytest.raises(CheckpointError, match="is a calibration of another checkpoint"):
        CalibratedCheckpoint(open_checkpoint(str(tmp_path / "other"), "huggingface"), found.folder)


def test_the_index_says_what_is_there(checkpoint: Checkpoint, tmp_path: Path) -> None:
    found = run(checkpoint, tmp_path, {"model.layers.0.mlp.up_proj.weight": ZEROS})
    index = json.loads((found.folder / "calibration.json").read_text())
    assert index["method"] == "gptq"
    assert index["layers"] == [0]
    assert index["formats"] == {
        "model.layers.0.mlp.up_proj.weight": {"values": "int4", "group": 64, "zeros": True, "scale": "float16"}
    }
    assert set(expected_tensors(ModelConfig.from_hf(found.config))) <= set(found.tensors)


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("VAMC_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_cache() == tmp_path / ".cache" / "vamc-py" / "calibration"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache() == tmp_path / "xdg" / "vamc-py" / "calibration"
    monkeypatch.setenv("VAMC_CACHE", str(tmp_path / "own"))
    assert default_cache() == tmp_path / "own" / "calibration"
