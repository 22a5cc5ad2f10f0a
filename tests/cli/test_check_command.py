"""``vamc-py check``: what it prints, and how it exits."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.checkpoints import write_checkpoint
from support.end_to_end import configuration

from vamc_py.check.check import Checker
from vamc_py.cli import main
from vamc_py.errors import ConfigError

YAML = """\
name: tiny
frontend:
  checkpoint: {folder}/model
  shape: {{input_ids: [[64], [128]]}}
backend: {{type: tvm_llvm, dtype: fp32}}
workspace: {{path: {folder}/out}}
"""
PLANTED = Path(__file__).parents[1] / "check" / "planted_passes.py"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("check")
    write_checkpoint(folder / "model", architecture="qwen2", layers=2)
    path = folder / "tiny.yaml"
    path.write_text(YAML.format(folder=folder))
    return path


def check(*arguments: object) -> int:
    """The exit code of the command, run in this process."""
    with pytest.raises(SystemExit) as left:
        main(["check", *map(str, arguments)])
    return int(str(left.value.code or 0))


def test_a_right_pipeline(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(config, "--layers", 1, "--tokens", 6) == 0
    written = capsys.readouterr()
    lines = written.out.splitlines()
    assert [line.split()[0] for line in lines[2:4]] == ["import", "simplify#1"]
    assert lines[-2].startswith("build")
    assert lines[-1] == "every stage keeps to its tolerance: the first 1 of 2 layers"
    assert "passes: done in" in written.err


def test_a_wrong_pass(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planted = f"passes=[{{file: '{PLANTED}:DroppedBias', after: raise-linear}}]"
    assert check(config, "--set", planted, "--bisect") == 1
    written = capsys.readouterr()
    assert "the pass dropped-bias (" in written.out
    assert "first operator that differs: vamc.linear in main, layer 0, relative error" in written.out
    assert "bias=True" in written.out
    folder = config.parent / "out" / "tiny.reproducer"
    assert written.out.splitlines()[-1].endswith(f" operators; to see it again: python {folder}/reproduce.py")
    assert "smallest module that shows it: 1 layer, 1 of " in written.out
    assert (folder / "README.txt").is_file()
    assert "Traceback" not in written.err


def test_a_folder_in_the_way_is_seen_at_once(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(config, "--bisect", "-o", config.parent) == 2
    written = capsys.readouterr()
    assert "is there already, and no reproducer; choose another folder with -o" in written.err
    assert written.out == ""


def test_an_output_without_anything_to_put_there(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(config, "-o", config.parent / "new") == 2
    assert "say --bisect too" in capsys.readouterr().err


def test_too_many_tokens(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(config, "--tokens", 128) == 2
    assert "vamc-py: error: --tokens: " in capsys.readouterr().err


def test_an_onnx_graph_is_refused(tmp_path: Path) -> None:
    """It is no torch model to compare with; nothing is opened for that."""
    loaded = configuration(tmp_path / "nowhere.onnx", tmp_path, kind="onnx")
    with pytest.raises(ConfigError, match=r"frontend\.type: check compares with the torch model, which an ONNX graph"):
        Checker(loaded)
