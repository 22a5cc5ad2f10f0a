"""``vamc-py passes``: the list, one pass, the pipeline of a configuration; and what ``validate`` says of ``passes``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from support.foreign_passes import CLAMP, install, write_pass_file
from typer.testing import CliRunner, Result

from vamc_py.cli import passes, validate
from vamc_py.config import load_config
from vamc_py.errors import ConfigError, UserError
from vamc_py.pipeline.registry import built_in_passes
from vamc_py.pipeline.resolve import resolve_pipeline

YAML = """\
name: small
frontend: {checkpoint: models/small, shape: {input_ids: [[512], [2048]]}}
backend: {type: tvm_llvm, dtype: int8}
"""
CHANGES = "passes=[{name: fuse-residual, off: true}, {file: 'clamp.py:Clamp', options: {labels: ['yes', 'é: x']}}]"


def run(*arguments: str | Path) -> Result:
    """The result; exceptions reach the test as they reach ``main``."""
    app = typer.Typer()
    passes.register(app)
    validate.register(app)
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """c.yaml, and clamp.py, in the current directory."""
    monkeypatch.chdir(tmp_path)
    write_pass_file(tmp_path)
    (tmp_path / "c.yaml").write_text(YAML)
    return Path("c.yaml")


def test_the_list_has_a_line_for_each_pass() -> None:
    lines = run("passes").stdout.splitlines()
    assert {line.split()[0] for line in lines} >= set(built_in_passes())
    assert lines[0].startswith("simplify ")
    [line] = [line for line in lines if line.startswith("cast-weights ")]
    assert line.split()[:5] == ["cast-weights", "rewrite", "llvm,", "cuda,", "vacc"]
    assert 'dtype="float16"' in line
    assert line.endswith("take the type `dtype`; sums stay in float32.")


def test_a_pass_of_another_package_is_listed_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "clamping", "1.2", {"clamp": "listed_passes:Clamp"}, listed_passes=CLAMP)
    monkeypatch.syspath_prepend(tmp_path)
    [line] = [line for line in run("passes").stdout.splitlines() if line.startswith("clamp ")]
    assert line.endswith("Bounds the logits. (clamping 1.2)")


def test_a_terminal_gets_a_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    passes.passes()
    lines = capsys.readouterr().out.splitlines()
    assert all(name in lines[0] for name in ("pass", "stage", "targets", "options", "what it")), lines[0]
    assert len(lines) > len(built_in_passes()) + 1  # long sentences are folded


def test_one_pass_is_explained_with_an_example() -> None:
    text = run("passes", "quantize-int8").stdout
    for words in (
        "quantize-int8, a pass of the stage rewrite\n",
        "requires    raise-linear\n",
        "runs after  merge-linear, keep-quantized, quantize-int4\n",
        "  lm_head  true or false   default true\n",
        "\nBefore:\n",
        "\nAfter:\n",
    ):
        assert words in text
    before, after = text.split("\nAfter:\n")
    assert "int8[" not in before.split("\nBefore:\n")[1]
    assert "embed: int8[9, 8]" in after


def test_a_class_in_a_file_is_explained(config: Path) -> None:
    text = run("passes", "clamp.py:Clamp").stdout
    assert text.startswith("clamp, a pass of the stage rewrite\n\nBounds the logits. A second sentence.\n")
    assert '  how     both or above   default "both"\n' in text
    assert "Before:" not in text


def test_an_unknown_pass() -> None:
    with pytest.raises(UserError, match=r"no pass has the name fuse-residul; did you mean fuse-residual\?"):
        run("passes", "fuse-residul")


def test_the_pipeline_of_a_configuration(config: Path) -> None:
    lines = run("passes", "--pipeline", config, "--set", CHANGES).stdout.splitlines()
    assert lines[0].split() == ["1", "simplify#1", "raise"]
    assert "fuse-residual" not in [line.split()[1] for line in lines]
    [line] = [line for line in lines if " clamp " in line]
    assert line.endswith(f"clamp.py:Clamp, --set {CHANGES}")
    assert lines[-1].split() == ["27", "bundle-parameters", "lower"]


def test_the_pipeline_as_yaml_can_be_pasted(config: Path, tmp_path: Path) -> None:
    section = run("passes", "--pipeline", config, "--set", CHANGES, "--yaml").stdout
    assert section.startswith("passes:\n  - clear: true\n  - name: simplify\n")
    pasted = tmp_path / "pasted.yaml"
    pasted.write_text(YAML + section)
    expected, again = (resolve_pipeline(load) for load in (load_config(config, [CHANGES]), load_config(pasted)))
    assert [(s.label, repr(s.one), s.origin) for s in again] == [(s.label, repr(s.one), s.origin) for s in expected]
    assert run("passes", "--pipeline", pasted, "--yaml").stdout == section


@pytest.mark.parametrize(
    "arguments", [["--yaml"], ["--set", "name=x"], ["simplify", "--pipeline", "c.yaml"]], ids=lambda words: words[0]
)
def test_arguments_that_do_not_go_together(config: Path, arguments: list[str]) -> None:
    result = run("passes", *arguments)
    assert result.exit_code == 2
    assert "--pipeline CONFIG" in " ".join(result.stderr.replace("│", " ").split())


def test_validate_checks_the_passes(config: Path) -> None:
    assert run("validate", config, "--set", CHANGES).stdout.startswith("c.yaml: valid: small")
    config.write_text(YAML + "passes:\n  - name: fuse-residul\n")
    with pytest.raises(ConfigError) as refused:
        run("validate", config)
    assert refused.value.faults == [
        "c.yaml:5:11: passes[0].name: no pass has the name fuse-residul; did you mean fuse-residual?"
    ]


def test_validate_leaves_targets_without_a_pipeline(config: Path) -> None:
    result = run("validate", config, "--set", CHANGES, "--set", "backend.type=tvm_cuda")
    assert result.exit_code == 0
    assert "does not compile: --set backend.type=tvm_cuda: " in result.stderr


def test_validate_without_the_compiler_says_that_it_did_not_look(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Any:
        raise UserError("compiling needs torch")

    monkeypatch.setattr("vamc_py.extras.require_compiler", missing)
    result = run("validate", config, "--set", "passes=[{name: no-such-pass}]")
    assert result.stderr == "notice: passes is not checked, as the compiler's packages are not installed here.\n"
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("changes", "loaded"), [("passes=null", False), ("passes=[{name: simplify#1, off: true}]", True)]
)
def test_validate_loads_tvm_only_for_a_section_passes(config: Path, changes: str, loaded: bool) -> None:
    script = (
        "import sys\nfrom vamc_py.cli import main\n"
        f"try: main(['validate', 'c.yaml', '--set', {changes!r}])\n"
        "except SystemExit: print('tvm' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines()[-1] == str(loaded)
