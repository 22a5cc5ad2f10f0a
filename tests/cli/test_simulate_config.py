"""``vamc-py simulate CONFIG``: programs written in memory, from a checkpoint of which only the headers are there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.checkpoints import model_config, write_checkpoint
from typer.testing import CliRunner

from benchmarks.headers import write_headers
from vamc_py.cli import build_app
from vamc_py.errors import UserError

YAML = """\
name: small
frontend:
  checkpoint: {checkpoint}
  type: huggingface
  shape: {{input_ids: [[16], [48]]}}
  model_kwargs: {{tp: 2, b2s: true}}
  quantize: {{type: w8a16_gptq, device: cuda:5, calib_args: {{true_sequential: false}}}}
backend: {{type: tvm_vacc, dtype: int8, target: tiny}}
dataset: {{type: huggingface, name: alpaca, path: nowhere/en_alpaca_data.json, nsamples: 128, seqlen: 512}}
workspace: {{path: {workspace}, workers: 4}}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Weights that are a hole, to be calibrated with data that are not there."""
    write_headers(tmp_path / "model", model_config(architecture="qwen3", layers=2))
    path = tmp_path / "small.yaml"
    path.write_text(YAML.format(checkpoint=tmp_path / "model", workspace=tmp_path / "out"))
    return path


def run(*arguments: object) -> Any:
    return CliRunner().invoke(build_app(), [str(argument) for argument in arguments], env={"COLUMNS": "160"})


def refused(*arguments: object) -> str:
    error = run(*arguments).exception
    assert isinstance(error, UserError)
    return str(error)


def test_headers_are_enough(config: Path, tmp_path: Path) -> None:
    result = run("simulate", config, "--trace", tmp_path / "trace.json")
    assert result.exit_code == 0, result.output
    assert "prefill, 16 tokens, context 48: 2 dies of tiny" in result.stdout
    assert "decode, 1 tokens, context 48: 2 dies of tiny" in result.stdout
    stages = [line for line in result.stderr.splitlines() if ":" not in line]
    assert stages == ["checkpoint", "trace", "import", "passes", "runstreams", "timing"]
    assert "notice: tvm_vacc w8a16_gptq does not use: frontend.model_kwargs.b2s, " in result.stderr
    labels = {event["name"] for event in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]}
    assert "layers.1.mlp.down_proj" in labels
    assert not (tmp_path / "out").exists()


def test_it_is_what_the_artifact_would_take(config: Path, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "model", architecture="qwen3", layers=2)
    plain = ("--set", "frontend.quantize=null", "--set", "frontend.shape.input_ids=[[32], [64]]")
    compiled = run("compile", config, *plain)
    assert compiled.exit_code == 0, compiled.output
    of_config = json.loads(run("simulate", config, *plain, "--json").stdout)
    of_artifact = json.loads(run("simulate", tmp_path / "out/small", "--json").stdout)
    assert of_config == of_artifact
    assert of_config["stages"]["prefill"]["tokens"] == 32


def test_one_stage_and_its_memory(config: Path) -> None:
    found = json.loads(run("simulate", config, "--only", "decode", "--json").stdout)
    (stage,) = found["stages"].values()
    assert stage["tokens"] == 1
    size = 256 << 10  # of the card tiny
    assert stage["memory"]["ssram"]["share"] == pytest.approx(stage["memory"]["ssram"]["bytes"] / size)
    assert 0 < stage["memory"]["ssram"]["share"] <= 1


def test_refusals(config: Path, tmp_path: Path) -> None:
    assert refused("simulate", config, "--set", "backend.type=tvm_llvm", "--set", "backend.target=native").endswith(
        "backend.type: only programs of vacc are simulated; --set backend.type=tvm_vacc"
    )
    assert "--set goes with a CONFIG" in refused("simulate", tmp_path, "--set", "name=other")
    assert str(tmp_path / "absent.yaml") in refused("simulate", tmp_path / "absent.yaml")
    small = refused("simulate", config, "--set", "backend.device={ssram_bytes: 4096}")
    assert "SSRAM" in small
    assert "\n" not in small
