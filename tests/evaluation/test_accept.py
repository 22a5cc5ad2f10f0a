"""``frontend.quantize.accept`` in a real compile of a tiny model: what it measures, repairs, refuses and leaves."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file
from support.checkpoints import write_checkpoint
from support.end_to_end import configuration
from support.foreign_passes import HEAD, write_pass_file

from vamc_py.artifact.verify import read_manifest, verify
from vamc_py.cli import main
from vamc_py.errors import ConfigError
from vamc_py.evaluation.accept import with_rules
from vamc_py.evaluation.compare import compare
from vamc_py.evaluation.gate import Rule, Widening
from vamc_py.evaluation.rank import rank
from vamc_py.runtime.executor import Executor
from vamc_py.runtime.perplexity import tokenize, windows

RUINED = "model.layers.1.self_attn.o_proj"
# Leaves the int8 values of one matrix their signs, as a wrong pass or calibration might. Where it is not int8, nothing.
RUIN = (
    HEAD
    + f'''
import numpy as np


@dataclass(frozen=True)
class Signs:
    rows_multiple: int = 1

    def apply(self, block: Any) -> Any:
        return np.where(block > 0, 127, -127).astype(np.int8)


@dataclass(frozen=True)
class Ruin(Pass):
    """Ruins one matrix."""

    name: ClassVar[str] = "ruin"
    stage: ClassVar[Stage] = "rewrite"

    def apply(self, program: Program, context: Context) -> Program:
        name = "{RUINED}.weight"
        types = {{var.name: str(var.ty.dtype) for var in program.function.params}}
        if types[name] != "int8":
            return program
        plan = program.plan.with_recipes({{name: program.plan[name].then(Signs())}})
        return program.with_function(program.function, plan=plan)
'''
)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int | str | None, str, str]:
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return left.value.code, captured.out, captured.err


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.yaml, a text and a pass that ruins; the float model is kept in it by the first compile.

    With a tied embedding far larger than the other weights the random model says every word again: it is good at this
    text, and gets worse at it when something is wrong.
    """
    folder = tmp_path_factory.mktemp("accept")
    write_checkpoint(folder / "model", architecture="qwen3", scale=0.02)
    tensors = load_file(folder / "model" / "model.safetensors")
    tensors["model.embed_tokens.weight"] *= 5
    save_file(tensors, folder / "model" / "model.safetensors")
    accept = {"text": str(folder / "text"), "chunks": 3, "context": 32, "ppl_increase": 0.01}
    quantize = {"activation": "int16", "accept": accept}
    overrides = ["backend.dtype=int8", f"frontend.quantize={json.dumps(quantize)}", "workspace.enable_ir=false"]
    (folder / "model.yaml").write_text(configuration(folder / "model", folder / "out", overrides=overrides).text)
    (folder / "text").write_text("".join(f"{word} " * 20 for word in ("the", "a") * 3))
    write_pass_file(folder, RUIN, "ruin.py")
    return folder


def ruined(place: Path) -> list[str]:
    change = [{"file": f"{place / 'ruin.py'}:Ruin", "before": "select-kernels"}]
    return ["--set", f"passes={json.dumps(change)}"]


def left(place: Path) -> set[str]:
    return {path.name for path in (place / "out").iterdir()} if (place / "out").exists() else set()


def measured(artifact: Path, text: Path) -> float:
    parts = windows(tokenize(artifact, text), 32, 3)
    return compare([Executor.load(artifact, context=32)], parts, reference=False)[0].ppl


def test_an_accepted_compile(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "compile", place / "model.yaml", "--set", "name=good")
    artifact = place / "out" / "good"
    assert (code, out) == (0, f"{artifact}\n")
    assert left(place) == {"good", ".eval"}
    verify(artifact)
    manifest = read_manifest(artifact)
    accepted = manifest.accepted
    assert accepted is not None
    [floating] = (place / "out" / ".eval").iterdir()
    assert accepted.ppl == pytest.approx(measured(artifact, place / "text"), abs=1e-4)
    assert accepted.reference_ppl == pytest.approx(measured(floating, place / "text"), abs=1e-4)
    assert 0 < abs(accepted.increase) < 0.01 == accepted.allowed
    assert (accepted.chunks, accepted.context, accepted.widened) == (3, 32, ())
    assert accepted.text == hashlib.sha256((place / "text").read_bytes()).hexdigest()
    assert "gate: perplexity" in err
    assert "note: accepted: perplexity" in err


def test_a_ruined_layer_is_named_and_repaired(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "compile", place / "model.yaml", "--set", "name=repaired", *ruined(place))
    assert code == 0
    artifact = place / "out" / "repaired"
    verify(artifact)
    accepted = read_manifest(artifact).accepted
    assert accepted is not None
    [widened] = accepted.widened
    assert (widened.tensors, widened.before, widened.type) == ((f"{RUINED}.weight",), "w8a16", "fp16")
    assert widened.error > 0.1
    assert accepted.increase <= 0.01
    assert accepted.ppl == pytest.approx(measured(artifact, place / "text"), abs=1e-4)
    assert f"note: widened {RUINED}: fp16 in place of w8a16, which changes the weights by " in err
    assert f"match: {RUINED}" in (artifact / "config.yaml").read_text()
    assert not any(name.startswith(".repaired") for name in left(place))


def test_what_cannot_be_repaired_is_refused(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ranking is the true one, but what it names is taken away, so that there is nothing to widen."""
    ranked: list[Widening] = []

    def nothing(*arguments: Any, **options: Any) -> list[Widening]:
        ranked.extend(rank(*arguments, **options))
        return []

    monkeypatch.setattr("vamc_py.evaluation.accept.rank", nothing)
    before = left(place) | {".eval"}
    code, out, err = run(capsys, "compile", place / "model.yaml", "--set", "name=bad", *ruined(place))
    assert (code, out) == (2, "")
    assert left(place) == before
    last = err.splitlines()[-1]
    assert "frontend.quantize.accept.ppl_increase: perplexity " in last
    assert "there is no weight that could be wider" in last
    assert len(ranked) == 2 * 4 + 1  # of each layer q/k/v, o, gate/up and down; the embedding
    assert ranked[0].tensors == (f"{RUINED}.weight",)
    assert ranked[0].damage > 100 * ranked[1].damage


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("text=none.txt", "frontend.quantize.accept.text: none.txt: cannot be read as UTF-8 text"),
        ("chunks=99", "frontend.quantize.accept.text: 99 chunks: the text has 1 to "),
        ("context=256", "frontend.quantize.accept.context: windows of 256 tokens do not fit in the context of 128"),
        ("context=3", "frontend.quantize.accept.context: "),
        ("ppl_increase=-1", "frontend.quantize.accept.ppl_increase: "),
        ("text=null", "frontend.quantize.accept.text: "),
    ],
)
def test_refusals_come_before_anything_is_built(
    place: Path, setting: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = left(place)
    override = f"frontend.quantize.accept.{setting}"
    code, out, err = run(capsys, "compile", place / "model.yaml", "--set", "name=refused", "--set", override)
    assert (code, out, left(place)) == (2, "", before)
    assert message in err
    assert "build" not in err


def test_rules_come_before_those_of_the_configuration(place: Path) -> None:
    own = 'frontend.quantize.rules=[{"match": "lm_head", "type": "fp16"}]'
    loaded = configuration(place / "model", place / "out", overrides=["backend.dtype=int8", own])
    changed = with_rules(loaded, [Rule("model.layers.0.*", "fp16")]).config.frontend.quantize
    assert changed is not None
    rules: Any = changed.rules  # type: ignore[attr-defined,unused-ignore]
    assert [(rule.match, rule.type) for rule in rules] == [("model.layers.0.*", "fp16"), ("lm_head", "fp16")]
    assert with_rules(loaded, []) is loaded
    with pytest.raises(ConfigError):
        with_rules(loaded, [Rule("lm_head", "w3a5")])
