"""The table of estimates for vacc, on shapes that are small."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.checkpoints import model_config, tensor_shapes
from typer.testing import CliRunner

from benchmarks import vacc
from benchmarks.headers import write_headers
from benchmarks.vacc import Case
from benchmarks.vacc_models import MODELS
from vamc_py.checkpoint import check_tensors, open_checkpoint
from vamc_py.errors import UserError
from vamc_py.frontend.model_config import ModelConfig, expected_tensors

SMALL = model_config(architecture="qwen3", layers=2, intermediate=128, max_positions=2048)


def test_headers_are_a_whole_checkpoint_on_no_disk(tmp_path: Path) -> None:
    config = model_config(architecture="qwen2", hidden=1024, intermediate=4096, vocab=32768, tied=False)
    size = write_headers(tmp_path, config)
    checkpoint = open_checkpoint(str(tmp_path), "huggingface")
    check_tensors(checkpoint, tensor_shapes(config))
    stat = (tmp_path / "model.safetensors").stat()
    assert stat.st_size > size > 100e6
    assert stat.st_blocks * 512 < 1e6
    assert not checkpoint.read("model.norm.weight").any()


@pytest.mark.parametrize(("name", "weights"), [("qwen3-8b", 8.19e9), ("qwq-32b", 32.76e9), ("skywork-or1-7b", 7.62e9)])
def test_models_have_the_published_sizes(name: str, weights: float) -> None:
    shapes = expected_tensors(ModelConfig.from_hf(MODELS[name], name)).values()
    found = sum(int(shape[0]) * (int(shape[1]) if len(shape) > 1 else 1) for shape in shapes)
    assert found == pytest.approx(weights, rel=0.005)


def test_the_table_its_figures_and_a_trace_of_a_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "qwen3-8b", SMALL)
    sizes = {"prefill": 32, "context": 64}
    cases = (Case("qwen3-8b", "int8", 4, **sizes), Case("qwen3-8b", "int8", 1, **sizes))
    monkeypatch.setattr(vacc, "CASES", cases)
    figures = tmp_path / "figures.json"
    done = CliRunner().invoke(vacc.app, ["--json", str(figures)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| qwen3")]
    assert [row[:2] for row in rows] == [[f"| {case.name}", stage] for case in cases for stage in ("prefill", "decode")]
    records = json.loads(figures.read_text())["cases"]
    four, one = (records[case.name]["stages"]["decode"] for case in cases)
    assert rows[1][2] == f"{four['tokens_per_s']:,.1f}"
    assert four["dies"][0]["communication"]["share"] > 0 == one["dies"][0]["communication"]["share"]
    assert f"decode {four['tokens_per_s'] / one['tokens_per_s']:.2f} times as fast." in done.stdout

    trace = tmp_path / "trace.json"
    arguments = ["--case", cases[0].name, "--trace", str(trace), "--layer", "1"]
    assert CliRunner().invoke(vacc.app, arguments, catch_exceptions=False).exit_code == 0
    events = [event for event in json.loads(trace.read_text())["traceEvents"] if event["ph"] == "X"]
    assert events
    assert all(event["args"]["label"].startswith("layers.1.") for event in events)
    assert len({event["pid"] for event in events}) == 2  # the first die in both stages


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--case", "gpt"], "--case gpt: there is qwen3-8b-int8-tp4"),
        (["--trace", "a.json"], "--trace is of one case"),
        (["--layer", "1", "--case", "qwq-32b-int8-tp8"], "--layer goes with --trace"),
    ],
)
def test_options(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CliRunner().invoke(vacc.app, arguments, catch_exceptions=False)
