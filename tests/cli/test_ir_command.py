"""``vamc-py ir``: what it prints, and the sentences for what it cannot do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tvm
import typer
from support.dumps import make_dump
from typer.testing import CliRunner, Result

from vamc_py.cli import ir
from vamc_py.errors import UserError

PASS_FILE = '''
"""A pass for a test."""

from dataclasses import dataclass
from typing import ClassVar

from tvm import relax

from vamc_py.pipeline.base import Pass, Stage
from vamc_py.pipeline.graph import Graph


@dataclass(frozen=True)
class ClipLogits(Pass):
    """Limits the logits."""

    name: ClassVar[str] = "clip-logits"
    stage: ClassVar[Stage] = "rewrite"
    targets: ClassVar[tuple[str, ...]] = ("llvm",)
    limit: float = 30.0

    def apply(self, program, context):
        graph = Graph(program.function)
        clipped = graph.bind(relax.op.clip(graph.outputs()[0], -self.limit, self.limit), "clipped")
        return program.with_function(graph.rebuild(outputs=[clipped])).note(f"logits stay within {self.limit}")
'''


@pytest.fixture(scope="module")
def dumps(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A dump with int8 weights and one with float16, of the same model of two layers."""
    folder = tmp_path_factory.mktemp("ir")
    return (
        make_dump(folder / "int8", text=False).folder,
        make_dump(folder / "fp16", text=False, dtype="fp16").folder,
    )


def run(*arguments: object) -> list[str]:
    """The lines that the command prints to stdout; its errors are raised."""
    result = invoke(*arguments)
    assert result.exit_code == 0, result.stderr
    return result.stdout.splitlines()


def invoke(*arguments: object) -> Result:
    app = typer.Typer()
    ir.register(app)
    return CliRunner().invoke(app, ["ir", *(str(argument) for argument in arguments)], catch_exceptions=False)


def test_show_lists_the_stages(dumps: tuple[Path, Path]) -> None:
    heading, *rows = run("show", dumps[0])
    assert heading.split() == ["stage", "ms", "calls", "what", "it", "does"]
    assert rows[0].split()[:2] == ["0", "import"]
    index, label, milliseconds, calls, *words = rows[4].split()
    assert (index, label) == ("4", "raise-rms-norm")
    assert float(milliseconds) > 0
    assert int(calls) < int(rows[3].split()[3])
    assert " ".join(words).endswith("becomes `R.vamc.rms_norm(x, weight, epsilon=eps)`.")
    assert "(changed nothing)" in rows[11]  # dense-kv-cache


def test_show_a_stage(dumps: tuple[Path, Path]) -> None:
    text = "\n".join(run("show", dumps[0], "merge-linear"))
    assert "model.layers.{0, 1}.mlp.gate_proj+up_proj.weight" in text
    kernel = run("show", dumps[0], "last", "--function", "select_rows_64")
    assert any(line.startswith("def select_rows_64(") for line in kernel)


def test_show_json_is_the_module(dumps: tuple[Path, Path]) -> None:
    text = "\n".join(run("show", dumps[0], "4", "--json"))
    assert json.loads(text)
    assert [gv.name_hint for gv in tvm.ir.load_json(text).get_global_vars()] == ["main"]


def test_diff_of_a_pass(dumps: tuple[Path, Path]) -> None:
    lines = run("diff", f"{dumps[0]}:fuse-swiglu")
    assert lines[:2] == ["step: changed", "@@ layer 0 (the same in layer 1)"]
    assert lines[-2].startswith("+ lv85: f32[n, 96] = vamc.swiglu(")
    assert run("diff", f"{dumps[0]}:dense-kv-cache") == ["no difference"]


def test_diff_shows_the_parameter_plan(dumps: tuple[Path, Path]) -> None:
    lines = run("diff", f"{dumps[0]}:quantize-int8")
    plan = lines[lines.index("parameter plan: changed") :]
    name = "model.layers.0.mlp.down_proj.weight"
    assert f"- {name}: {name}, Cast(float32)" in plan
    assert f"+ {name}: {name}, Cast(float32), QuantizeRows(values)" in plan
    assert f"+ {name}.scale: {name}, Cast(float32), QuantizeRows(scale)" in plan
    assert "@@ recipes, layer 0 (the same in layer 1)" in plan


def test_diff_of_two_stages(dumps: tuple[Path, Path]) -> None:
    lines = run("diff", f"{dumps[0]}:import", f"{dumps[0]}:flatten-batch")
    assert lines[0] == "main became step: changed"
    assert run("diff", f"{dumps[0]}:import", f"{dumps[0]}:0") == ["no difference"]
    # Whether the weights are a tuple or not, they are known by their names.
    lines = run("diff", f"{dumps[0]}:lower-reference", dumps[0])
    assert [line for line in lines if line[0] in "+-" and "recipes" not in line][:1] == ["+ tuples: caches, params"]
    assert not any(line.startswith("@@ layer") for line in lines)


def test_diff_of_two_dumps(dumps: tuple[Path, Path]) -> None:
    lines = run("diff", *dumps)
    assert lines[0] == "step: changed"
    # The tuples of parameters are known by their fields.
    assert "- model.layers.0.mlp.down_proj.weight: u8[1, 24, 4, 16, 4]" in lines
    assert "+ model.layers.0.mlp.down_proj.weight: f16[1, 96, 64]" in lines
    assert {"@@ layer 0", "@@ layer 1"} <= set(lines)  # the last layer has the choice of the wanted rows besides
    assert not any("rms_norm" in line for line in lines if line[:2] in ("- ", "+ "))
    # The same stage has another index in each.
    assert run("diff", *(f"{dump}:fuse-attention" for dump in dumps)) == ["no difference"]


def test_a_folder_with_a_colon_in_its_name(dumps: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "a:b"
    shutil.copytree(dumps[0], folder)
    assert run("diff", f"{folder}:1") == ["no difference"]
    assert run("show", folder)[1].split()[:2] == ["0", "import"]


def test_kernels(dumps: tuple[Path, Path]) -> None:
    shown = run("kernel", dumps[0])
    assert "select_rows_64(x: f32[n, 64], rows: i32[m], out: f32[m, 64]) for select_rows" in shown
    assert any("T.prim_func" in line for line in run("kernel", dumps[0], "select_rows_64"))
    assert any(line.startswith("define ") for line in run("kernel", dumps[0], "select_rows_64", "--as", "llvm"))
    assert run("kernel", f"{dumps[0]}:import") == []


def test_apply_a_pass_of_a_file(dumps: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "clip.py"
    path.write_text(PASS_FILE)
    result = invoke("apply", f"{dumps[0]}:fuse-attention", f"{path}:ClipLogits", "--option", "limit=12.5")
    assert [line for line in result.stdout.splitlines() if line.startswith("+ ")] == [
        "+ clipped: f32[m, 288] = clip(lv174, -12.5, 12.5)",
        "+ result: f32[m, 288] = clipped",
    ]
    assert result.stderr == "note: logits stay within 12.5\n"


def test_apply_a_pass_by_its_name(dumps: tuple[Path, Path]) -> None:
    lines = run("apply", f"{dumps[0]}:import", "raise-rms-norm")
    assert lines[:2] == ["main: changed", "@@ layer 0 (the same in layer 1)"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("diff", "{}:import"), "nothing stands before import; name a later stage"),
        (("diff", "{}:raise-norm"), "no stage raise-norm"),
        (("diff", "{}:simplify"), "simplify ran 5 times; say which"),
        (("diff", "{}/none"), "no such folder"),
        (("show", "{}", "--json"), "name a stage to show"),
        (("show", "{}", "4", "--function", "step"), "there is no function step after 4; there are main"),
        (("show", "{}", "4", "--json", "--function", "main"), "--json gives the whole module"),
        (("kernel", "{}", "rms"), "no kernel rms"),
        (("apply", "{}:import", "raise-norms"), "no pass has the name raise-norms"),
        (("apply", "{}:import", "simplify", "--option", "limit"), "--option limit: must be KEY=VALUE"),
        (("apply", "{}:import", "simplify", "--option", "limit=3"), "the pass simplify has no option limit"),
        (("apply", "{}:import", "simplify", "--option", "a={"), "--option a={: the value is no YAML"),
    ],
)
def test_sentences(dumps: tuple[Path, Path], arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError) as raised:
        run(*(argument.format(dumps[0]) if "{}" in argument else argument for argument in arguments))
    assert message in str(raised.value)


def test_colours_are_for_terminals(dumps: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["@@ layer 0", "- lv: f32[n] = exp(x)", "+ lv: f32[n] = [red]tanh(x)"]
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    printed: list[str] = []
    monkeypatch.setattr("rich.console.Console.print", lambda self, text, **_: printed.append((text.plain, text.style)))
    ir._print(lines)
    assert printed == list(zip(lines, ["cyan", "red", "green"], strict=True))
