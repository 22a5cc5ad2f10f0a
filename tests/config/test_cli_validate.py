"""``vamc-py validate``: what it prints, and where."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from vamc_py.cli.validate import register
from vamc_py.errors import ConfigError

GOOD = """\
name: small
frontend:
  checkpoint: models/small
  shape: {input_ids: [[512], [2048]]}
  model_kwargs: {tp: 4}
backend: {type: tvm_llvm, dtype: int8}
"""


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    register(app)
    return app


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(GOOD, encoding="utf-8")
    return path


def test_summary_and_notice(app: typer.Typer, config: Path) -> None:
    result = CliRunner().invoke(app, [str(config)])
    assert result.exit_code == 0
    assert result.stdout == (
        f"{config}: valid: small, huggingface to tvm_llvm, int8 (w8a16), prefill 512, context 2048\n"
    )
    assert result.stderr == "notice: tvm_llvm w8a16 does not use: frontend.model_kwargs.tp.\n"


def test_what_does_not_compile_is_still_valid(app: typer.Typer, config: Path) -> None:
    result = CliRunner().invoke(
        app, [str(config), "--set", "frontend.quantize.type=w16kv8", "--set", "backend.dtype=int8"]
    )
    assert result.exit_code == 0
    wanted = (
        "does not compile: --set frontend.quantize.type=w16kv8: frontend.quantize.type: w16kv8 keeps 16-bit weights"
    )
    assert wanted in result.stderr


def test_other_network_and_prefill_only(app: typer.Typer, config: Path) -> None:
    prefill_only = CliRunner().invoke(app, [str(config), "--set", "frontend.shape.input_ids=[[512], []]"])
    assert prefill_only.stdout.endswith("prefill 512, prefill only\n")
    other = CliRunner().invoke(app, [str(config), "--set", "frontend.type=keras"])
    assert other.stdout.endswith("small, keras to tvm_llvm, int8\n")


def test_faults_reach_the_caller_as_config_error(app: typer.Typer, config: Path) -> None:
    result = CliRunner().invoke(app, [str(config), "--set", "backend.dtype=int9"])
    assert isinstance(result.exception, ConfigError)
    assert "did you mean int8?" in str(result.exception)


def test_help_shows_an_example(app: typer.Typer) -> None:
    result = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"})
    assert "vamc-py validate examples/01_smollm2_int8.yaml --set backend.dtype=fp32" in result.stdout
