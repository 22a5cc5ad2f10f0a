"""The commands that show and check passes, on a configuration for vacc: what they show, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.checkpoints import write_checkpoint

from vamc_py.cli import main

YAML = """\
name: tiny
frontend:
  checkpoint: {folder}/model
  shape: {{input_ids: [[32], [64]]}}
  model_kwargs: {{tp: 2}}
backend: {{type: tvm_vacc, dtype: int8}}
workspace: {{path: {folder}/out}}
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vacc")
    write_checkpoint(folder / "model", architecture="qwen3", layers=1, scale=0.2)
    path = folder / "tiny.yaml"
    path.write_text(YAML.format(folder=folder))
    return path


@pytest.fixture(scope="module")
def dump(config: Path) -> Path:
    folder = config.parent / "dump"
    run("compile", config, "--dump-ir", folder, "--until", "shard-tensors")
    assert not (config.parent / "out").exists()
    return folder


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    return int(str(left.value.code or 0))


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert run(*arguments) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert run(*arguments) == 2
    faults = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vamc-py: error: ")]
    assert len(faults) == 1
    return faults[0]


def test_the_pipeline_ends_with_the_dies(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "passes", "--pipeline", config).splitlines()[-1].split()[1:] == [
        "shard-tensors", "rewrite", "tp=2,", "rank=0,", "align=false",
    ]  # fmt: skip


def test_stages_are_shown_and_compared(dump: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "shard-tensors" in printed(capsys, "ir", "show", dump).splitlines()[-1]
    assert "R.vamc.all_gather(" in printed(capsys, "ir", "show", dump, "last", "--function", "step")
    changes = printed(capsys, "ir", "diff", f"{dump}:shard-tensors")
    assert any(line.startswith("+") and "all_reduce" in line for line in changes.splitlines())
    assert "QuantizeRows(scale)" in printed(capsys, "ir", "apply", f"{dump}:fuse-attention", "quantize-int8")


def test_a_module_after_a_pass_is_printed(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = printed(capsys, "compile", config, "--until", "fuse-attention", "--only-function", "step")
    assert shown.startswith("# after fuse-attention\n")
    assert "R.vamc.qkv_attention(" in shown


def test_what_needs_a_module_names_what_serves_instead(
    config: Path, dump: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "`vamc-py runstream show ARTIFACT` names them" in refused(capsys, "ir", "kernel", dump)
    assert "`vamc-py simulate CONFIG` writes those in memory" in refused(capsys, "ir", "build", dump)
    page = tmp_path / "page.html"
    assert "`vamc-py simulate CONFIG --trace FILE` shows" in refused(capsys, "report", dump, "-o", page)
    assert not page.exists()
    fault = refused(capsys, "eval", config, "--text", config)
    assert f"{config}:6:17: backend.type: a simulation is too slow to measure a model" in fault
    assert "--set backend.type=tvm_llvm" in fault


def test_check_goes_up_to_the_dies(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", config, "--tokens", 8, "--layers", 1) == 0
    written = capsys.readouterr()
    lines = written.out.splitlines()
    assert lines[-2].startswith("cast-weights ")
    assert lines[-1].startswith("every stage keeps to its tolerance: ")
    assert "not checked: shard-tensors and the runstreams behind it" in written.err
