"""What a compile shows of its passes: dumps, modules on stdout, the log, the artifact's own IR."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.checkpoints import write_checkpoint

from vamc_py.artifact.verify import verify
from vamc_py.cli import main
from vamc_py.inspect.dump import open_dump

YAML = """\
name: tiny
frontend:
  checkpoint: {folder}/model
  shape: {{input_ids: [[16], [64]]}}
backend: {{type: tvm_llvm, dtype: int8}}
workspace: {{path: {folder}/out}}
"""


def vamc_py(*arguments: str | Path) -> int:
    """Runs a command in this process; the value is its exit code."""
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    return int(left.value.code or 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint and tiny.yaml."""
    folder = tmp_path_factory.mktemp("inspected")
    write_checkpoint(folder / "model", architecture="qwen3", layers=1)
    (folder / "tiny.yaml").write_text(YAML.format(folder=folder))
    return folder


@pytest.fixture(scope="module")
def compiled(folder: Path) -> Path:
    """The folder after a compile with a dump and the log."""
    assert vamc_py("compile", folder / "tiny.yaml", "--dump-ir", folder / "dump", "-vv") == 0
    return folder


def test_the_artifact_holds_the_ir_of_the_dump(compiled: Path) -> None:
    dump, artifact = open_dump(compiled / "dump"), open_dump(compiled / "out/tiny")
    assert dump.index == artifact.index
    assert dump.index.name == "tiny"
    assert (compiled / "dump/000_import.py").is_file()
    assert not list((compiled / "out/tiny/ir").glob("*.py"))
    for name in {record.module for record in dump.index.stages}:
        assert (dump.folder / name).read_bytes() == (artifact.folder / name).read_bytes()


def test_times_of_all_stages_are_beside_the_ir(compiled: Path) -> None:
    for times in (open_dump(compiled / "dump").times, open_dump(compiled / "out/tiny").times):
        labels = [record.label for record in open_dump(compiled / "dump").index.stages]
        assert set(times) == {*labels, "checkpoint", "trace", "passes", "build", "weights"}
        assert sum(times[label] for label in labels[1:]) <= times["passes"]


def test_verify_takes_the_times_as_they_are(compiled: Path) -> None:
    manifest = verify(compiled / "out/tiny")
    assert "ir/pipeline.json" in manifest.files
    assert "ir/times.json" not in manifest.files


def test_the_log_names_stages_passes_and_operators(compiled: Path) -> None:
    log = (compiled / "out/tiny.log").read_text()
    assert " - vamc - INFO - trace: done in " in log
    assert " - vamc - INFO - pass 2 raise-linear: " in log
    assert " - vamc - DEBUG - pass 2 raise-linear: vamc.linear: 0, now 8" in log
    assert "found nothing to change" in log


def test_a_second_compile_has_the_same_bytes_but_for_the_times(compiled: Path, capsys: pytest.CaptureFixture) -> None:
    again = compiled / "again"
    assert vamc_py("compile", compiled / "tiny.yaml", "--set", f"workspace.path={again}") == 0
    first, second = (
        {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file() and p.name != ".verified"}
        for root in (compiled / "out/tiny", again / "tiny")
    )
    assert first.keys() == second.keys()
    # The workspace is another one: the configuration says so, in its own file and in the index of the IR.
    told = {"config.yaml", "manifest.json", "ir/pipeline.json", "ir/times.json"}
    assert {name for name in first if first[name] != second[name]} <= told
    indexes = [json.loads(files["ir/pipeline.json"]) for files in (first, second)]
    assert indexes[0]["stages"] == indexes[1]["stages"]
    capsys.readouterr()


def test_until_builds_nothing_and_prints(folder: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ("--until", "raise-rotary", "--print-after", "raise-linear", "--print-after", "raise-rotary")
    unbuilt = folder / "unbuilt"
    command = ("compile", folder / "tiny.yaml", "--set", f"workspace.path={unbuilt}", *arguments)
    assert vamc_py(*command, "--dump-ir", folder / "short") == 0
    printed = capsys.readouterr().out
    assert printed.count("# after raise-linear\n") == printed.count("# after raise-rotary\n") == 1
    linear, rotary = printed.split("# after raise-rotary\n")
    assert "R.vamc.linear(" in linear
    assert "R.vamc.rotary(" not in linear
    assert "R.vamc.rotary(" in rotary
    assert not unbuilt.exists()
    assert open_dump(folder / "short").index.stages[-1].label == "raise-rotary"


def test_until_alone_prints_what_it_came_to(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert vamc_py("compile", folder / "tiny.yaml", "--until", "flatten-batch", "--only-function", "step") == 0
    assert "def step(" in capsys.readouterr().out


def test_only_one_function_is_printed(folder: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ("--until", "select-kernels", "--print-after", "select-kernels", "--only-function", "step")
    assert vamc_py("compile", folder / "tiny.yaml", *arguments) == 0
    printed = capsys.readouterr().out
    assert "def step(" in printed
    assert "T.prim_func" not in printed


def test_without_the_ir(folder: Path, capsys: pytest.CaptureFixture) -> None:
    overrides = ("--set", "workspace.enable_ir=false", "--set", "name=bare", "--set", "workspace.save_log=true")
    assert vamc_py("compile", folder / "tiny.yaml", *overrides) == 0
    assert not (folder / "out/bare/ir").exists()
    assert (folder / "out/bare.log").is_file()
    capsys.readouterr()
    assert vamc_py("ir", "show", folder / "out/bare") == 2
    assert "an artifact without its IR" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--until", "raise-liner"), "raise-liner: no pass of this pipeline; did you mean raise-linear"),
        (("--until", "simplify"), "simplify: runs more than once; name one of simplify#1, simplify#2"),
        (("--print-after", "nothing"), "nothing: no pass of this pipeline"),
        (("--dump-ir", "model"), "model: has files in it that are no dump"),
    ],
)
def test_refused_before_anything_runs(
    folder: Path, arguments: tuple[str, str], words: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert vamc_py("compile", "tiny.yaml", "--set", "name=refused", *arguments) == 2
    written = capsys.readouterr().err
    assert words in written
    assert "trace" not in written
    assert not (folder / "out/refused").exists()
