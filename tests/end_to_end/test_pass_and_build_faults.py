"""A fault in a pass or in the build says which pass, which operator, and how to see it again without the checkpoint."""

from __future__ import annotations

import shlex
import traceback
from pathlib import Path

import pytest
from support.checkpoints import write_checkpoint
from support.end_to_end import without_code

from vamc_py.cli import build_app, main
from vamc_py.inspect.dump import open_dump

YAML = """\
name: tiny
frontend:
  checkpoint: {folder}/model
  shape: {{input_ids: [[16], [64]]}}
backend: {{type: tvm_llvm, dtype: fp32}}
workspace: {{path: {folder}/out}}
passes:
  - file: broken.py:{kind}
    after: {after}
"""

BROKEN = '''\
"""Passes that go wrong."""

from dataclasses import dataclass
from typing import ClassVar

import tvm
from tvm import relax
from tvm.script import tirx as T

from vamc_py.errors import UserError
from vamc_py.pipeline.base import Pass
from vamc_py.pipeline.graph import Graph


@dataclass(frozen=True)
class WrongShape(Pass):
    """Adds three numbers to the second of many."""

    name: ClassVar[str] = "wrong-shape"
    stage: ClassVar[str] = "rewrite"

    def apply(self, program, context):
        graph = Graph(program.function)
        [_, (var, call), *_] = graph.calls("relax.vamc.swiglu")
        graph.replace(var, relax.op.add(call, relax.const([1.0, 2.0, 3.0], "float32")))
        return program.with_function(graph.rebuild())


@dataclass(frozen=True)
class NotForThis(Pass):
    """Refuses every model."""

    name: ClassVar[str] = "not-for-this"
    stage: ClassVar[str] = "rewrite"

    def apply(self, program, context):
        raise UserError("this model has no horns; take one that has")


@T.prim_func
def hopeless(x_handle: T.handle, out_handle: T.handle):
    n = T.int64()
    x = T.match_buffer(x_handle, (n, 288), "float32")
    out = T.match_buffer(out_handle, (n, 288), "float32")
    for i, j in T.grid(n, 288):
        T.evaluate(T.tvm_storage_sync("shared"))  # for GPUs
        out[i, j] = x[i, j]


@dataclass(frozen=True)
class KernelForAnother(Pass):
    """Puts a kernel behind the logits that only a GPU can run."""

    name: ClassVar[str] = "kernel-for-another"
    stage: ClassVar[str] = "lower"

    def apply(self, program, context):
        graph = Graph(program.function)
        builder = relax.BlockBuilder(program.module)
        symbol = builder.add_func(hopeless.with_attr("op_pattern", 8).without_attr("global_symbol"), "hopeless")
        [logits] = graph.outputs()
        function = graph.rebuild(outputs=[graph.bind(relax.call_tir(symbol, [logits], logits.ty), "hopeless")])
        module = tvm.IRModule(dict(builder.get().functions_items()), attrs=program.module.attrs)
        return type(program)(module, program.plan, program.notes).with_function(function)
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a checkpoint of two layers and the broken passes; it is the current one."""
    write_checkpoint(tmp_path / "model", architecture="qwen3")
    (tmp_path / "broken.py").write_text(BROKEN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def failing_compile(folder: Path, kind: str, after: str) -> tuple[Exception, str]:
    """The exception that leaves the command, and all that Python prints of it."""
    (folder / "tiny.yaml").write_text(YAML.format(folder=folder, kind=kind, after=after))
    with pytest.raises(Exception) as left:  # noqa: PT011  (whatever TVM raises)
        main(["compile", "tiny.yaml"])
    return left.value, "".join(traceback.format_exception(left.value))


def again(notes: list[str]) -> Exception:
    """What the command that the notes give comes to."""
    [command] = [note for note in notes if note.startswith("to see it fail again")]
    program, *arguments = shlex.split(command.partition(": ")[2])
    assert program == "vamc-py"
    with pytest.raises(Exception) as left:  # noqa: PT011
        build_app()(arguments, standalone_mode=False)
    return left.value


def test_a_fault_in_a_pass(folder: Path, capsys: pytest.CaptureFixture) -> None:
    error, printed = failing_compile(folder, "WrongShape", "flatten-batch")
    notes = error.__notes__
    assert notes[0] == "the pass wrong-shape (14 in the pipeline, from broken.py:WrongShape) failed"
    kept = open_dump(folder / "out/tiny.fault")
    assert kept.index.stages[-1].label == "flatten-batch"
    swiglu = [line for line in notes if line.startswith("first at ")]
    assert len(swiglu) == 1
    assert swiglu[0].endswith(" = relax.vamc.swiglu in step")
    assert all(note in printed for note in notes)
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["tiny.fault"]
    assert str(again(notes)).splitlines()[-1] == str(error).splitlines()[-1]
    capsys.readouterr()


def test_a_fault_in_the_build(folder: Path, capsys: pytest.CaptureFixture) -> None:
    error, _ = failing_compile(folder, "KernelForAnother", "lower-reference")
    notes = error.__notes__
    assert notes[:2] == ["the build failed", "the kernel hopeless does not compile"]
    assert open_dump(folder / "out/tiny.fault").index.stages[-1].label == "bundle-parameters"
    assert type(again(notes)) is type(error)
    capsys.readouterr()


def test_what_the_input_is_at_fault_for_stays_a_sentence(folder: Path, capsys: pytest.CaptureFixture) -> None:
    (folder / "tiny.yaml").write_text(YAML.format(folder=folder, kind="NotForThis", after="flatten-batch"))
    with pytest.raises(SystemExit) as left:
        main(["compile", "tiny.yaml"])
    assert left.value.code == 2
    assert "vamc-py: error: this model has no horns; take one that has" in capsys.readouterr().err
    assert list((folder / "out").iterdir()) == []


def test_a_compile_that_succeeds_removes_the_kept_ir(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    without_code(monkeypatch)
    failing_compile(folder, "WrongShape", "flatten-batch")
    with pytest.raises(SystemExit):
        main(["compile", "tiny.yaml", "--set", "passes=[]"])
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["tiny"]
    capsys.readouterr()
