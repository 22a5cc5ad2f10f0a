"""Dumps: exact at every stage, the same bytes in every process, and clear about what cannot be read or replaced."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import tvm
from support.dumps import Dumped, dump_of, make_dump, tiny_configuration
from support.end_to_end import configuration
from support.project_tree import ROOT
from support.relax_modules import context_for, program_of
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

import vamc_py
from vamc_py.errors import UserError
from vamc_py.inspect.dump import Dump, DumpIndex, open_dump
from vamc_py.inspect.dump_writer import DumpWriter, config_values, operator_counts, prepare_dump_folder
from vamc_py.inspect.kernel_source import kernel_names
from vamc_py.pipeline.base import Context, Pass, Stage
from vamc_py.pipeline.build import build_module
from vamc_py.pipeline.graph import Graph
from vamc_py.pipeline.program import Program, layout
from vamc_py.pipeline.runner import planned, run_passes

SETTINGS = ["frontend.shape.input_ids=[[32],[96]]", "workspace.workers=2"]


@pytest.fixture(scope="module")
def dumped(tmp_path_factory: pytest.TempPathFactory) -> Dumped:
    folder = tmp_path_factory.mktemp("dumps") / "qwen3"
    return dump_of(tiny_configuration(folder, 2, "int8", "qwen3", SETTINGS, {}), folder)


@pytest.fixture
def copied(dumped: Dumped, tmp_path: Path) -> Path:
    """The dump in a folder that a test may damage."""
    return Path(shutil.copytree(dumped.dump.folder, tmp_path / "copied"))


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "times.json")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def texts(dump: Dump) -> Iterator[tuple[Path, str]]:
    for path in dump.folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            yield path, (gzip.decompress(data) if path.suffix == ".gz" else data).decode()


def test_every_stage_is_read_as_it_was(dumped: Dumped) -> None:
    stages = dumped.dump.index.stages
    programs = [dumped.runs[0].before, *(run.after for run in dumped.runs)]
    assert len(stages) == len(programs)
    for stage, program in zip(stages, programs, strict=True):
        read = dumped.dump.program(stage)
        tvm.ir.assert_structural_equal(read.module, program.module, map_free_vars=False)
        assert list(read.plan.recipes.items()) == list(program.plan.recipes.items())
        assert read.notes == program.notes
        assert [p.name for p in read.function.params] == [p.name for p in program.function.params]


@pytest.mark.parametrize("label", ["import", "merge-linear", "select-kernels"])
def test_the_passes_go_on_from_a_stage_that_was_read(dumped: Dumped, label: str) -> None:
    stage = dumped.dump.find(label)
    program, context = dumped.dump.program(stage), dumped.dump.context()
    for run in dumped.runs[stage.index :]:
        program = run.planned.one.apply(program, context)
    tvm.ir.assert_structural_equal(program.module, dumped.lowered.program.module, map_free_vars=False)
    assert program.plan == dumped.lowered.program.plan


def test_a_program_that_was_read_builds(dumped: Dumped) -> None:
    dump = dumped.dump
    executable = build_module(dump.program(dump.find("last")), dump.context().target)
    assert "step" in executable.as_text()


def test_the_context_is_that_of_the_passes(dumped: Dumped) -> None:
    context = dumped.dump.context()
    assert (context.prefill, context.context, context.target.dtype) == (32, 96, "int8")
    assert isinstance(context.target.features, tuple)
    assert hash(context) == hash(replace(context))


def test_what_changed_nothing_has_no_module_of_its_own(dumped: Dumped) -> None:
    stages = {stage.label: stage for stage in dumped.dump.index.stages}
    assert not stages["dense-kv-cache"].changed
    assert stages["dense-kv-cache"].module == stages["kv-cache-layout"].module
    assert stages["merge-linear"].module == "015_merge-linear.json.gz"
    assert stages["merge-linear"].plan == "015_merge-linear.plan.json.gz"
    assert stages["fuse-swiglu"].plan == stages["merge-linear"].plan
    written = {path.name for path in dumped.dump.folder.glob("*.json.gz")}
    assert written == {s.module for s in stages.values()} | {s.plan for s in stages.values()}


def test_the_index_counts_operators_and_kernels(dumped: Dumped) -> None:
    stages = {stage.label: stage for stage in dumped.dump.index.stages}
    assert stages["import"].operators["matmul"] == 2 * (7 + 2) + 1
    assert stages["quantize-int8"].operators["vamc.linear"] == 2 * 4 + 1
    assert stages["bundle-parameters"].operators["kernel linear"] == 2 * 4 + 1
    assert stages["bundle-parameters"].operators["kernel qkv_attention"] == 2


def test_the_index_says_what_ran(dumped: Dumped) -> None:
    quantize = dumped.dump.find("quantize-int8")
    assert (quantize.stage, quantize.options, quantize.place) == ("rewrite", {"lm_head": True, "rules": []}, None)
    assert quantize.origin.startswith("vamc-py")
    assert quantize.summary.startswith("Per output row, symmetric")
    assert dumped.dump.times["quantize-int8"] > 0
    assert dumped.dump.times["trace"] == 0.5


def test_the_index_says_where_each_value_came_from(dumped: Dumped) -> None:
    config = {value.key: value for value in dumped.dump.index.config}
    assert config["backend.dtype"].value == "int8"
    assert config["backend.dtype"].origin.startswith("model.yaml:8:")
    assert config["frontend.shape.input_ids"].value == [[32], [96]]
    assert config["frontend.shape.input_ids"].origin == f"--set {SETTINGS[0]}"
    assert (config["workspace.workers"].value, config["frontend.model_kwargs.tp"].origin) == (2, "default")
    assert not {"frontend", "graph", "workspace.pyenv"} & set(config)  # sections, and what has no value


def test_lists_and_mappings_of_the_configuration_are_one_value(tmp_path: Path) -> None:
    overrides = [
        "passes=[{name: quantize-int8, options: {lm_head: false}}, {name: fuse-residual, off: true}]",
        "workspace.pyenv={torch: '2'}",
        "workspace.pyenv.numpy='1'",
    ]
    loaded = configuration(tmp_path / "checkpoint", tmp_path, dtype="int8", overrides=overrides)
    values = {
        value.key: value for value in config_values(loaded) if value.key.startswith(("passes", "workspace.pyenv"))
    }
    assert list(values) == ["passes", "workspace.pyenv"]
    changes = [{"name": "quantize-int8", "options": {"lm_head": False}}, {"name": "fuse-residual", "off": True}]
    assert (values["passes"].value, values["passes"].origin) == (changes, f"--set {overrides[0]}")
    assert values["workspace.pyenv"].value == {"torch": "2", "numpy": "1"}
    assert values["workspace.pyenv"].origin == f"--set {overrides[1]}, --set {overrides[2]}"


def test_no_file_names_a_folder_that_the_configuration_does_not(dumped: Dumped) -> None:
    package = Path(vamc_py.__file__).parent
    found = dict(texts(dumped.dump))
    assert any("vamc_py/schedules/llvm/rows.py" in text.replace("\\/", "/") for text in found.values())
    for path, text in found.items():
        plain = text.replace("\\/", "/")
        assert str(package) not in plain, path
        assert str(ROOT) not in plain, path
        assert str(dumped.dump.folder) not in plain.replace(f"{dumped.dump.folder}-checkpoint", ""), path


def test_another_process_writes_the_same_bytes(dumped: Dumped) -> None:
    again = dumped.dump.folder.with_name("again") / "qwen3"
    again.parent.mkdir()
    # The same names for everything that the configuration says; the dump goes elsewhere.
    code = (
        "import sys; from pathlib import Path; from support.dumps import dump_of, tiny_configuration;"
        "loaded = tiny_configuration(Path(sys.argv[1]), 2, 'int8', 'qwen3', sys.argv[3:], {});"
        "dump_of(loaded, Path(sys.argv[2]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests"), "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", code, str(dumped.dump.folder), str(again), *SETTINGS]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=300)
    assert digests(again) == digests(dumped.dump.folder)


def test_texts_hold_one_function_and_the_module_stays_whole(tmp_path: Path) -> None:
    dump = make_dump(tmp_path / "dump", layers=1, only_function="step")
    last = dump.find("last")
    text = (dump.folder / "027_bundle-parameters.py").read_text()
    assert "def step(" in text
    assert "# Kernels" not in text
    assert not (dump.folder / "kernels").exists()
    assert "no function step" in (dump.folder / "000_import.py").read_text()
    assert {"step", *kernel_names(dump.module(last))} == {gv.name_hint for gv in dump.module(last).get_global_vars()}


def test_a_stage_that_changed_nothing_says_so(dumped: Dumped) -> None:
    text = (dumped.dump.folder / "011_dense-kv-cache.py").read_text()
    assert "changed nothing" in text
    assert "10 kv-cache-layout" in text
    assert len(text.splitlines()) == 2


def test_each_kernel_is_written_once(dumped: Dumped) -> None:
    module = dumped.lowered.program.module
    assert {path.stem for path in (dumped.dump.folder / "kernels").iterdir()} == set(kernel_names(module))


# Finding a stage


@pytest.mark.parametrize(
    ("text", "label"),
    [("0", "import"), ("import", "import"), ("15", "merge-linear"), ("simplify#2", "simplify#2"), ("last", None)],
)
def test_stages_are_found(dumped: Dumped, text: str, label: str | None) -> None:
    assert dumped.dump.find(text).label == (label or dumped.runs[-1].planned.label)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("simplify", "ran 5 times; say which: simplify#1, simplify#2"),
        ("merge-lniear", "did you mean merge-linear"),
        ("99", "0 import, 1 simplify#1, 2 raise-linear"),
    ],
)
def test_a_stage_that_is_not_there_is_a_sentence(dumped: Dumped, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        dumped.dump.find(text)


# Damage


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def write(text: str) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(gzip.compress(text.encode()))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "damaged or cut short; compile again"),
        (Path.unlink, "cannot be read .No such file"),
        (lambda path: path.write_bytes(b"not a gzip"), "cannot be read .Not a gzipped file"),
        (write("[1, 2"), "damaged: not JSON"),
        (write('{"root_index": 0, "nodes": [{"type": "no.such.node", "data": {}}]}'), "TVM .* cannot read this module"),
    ],
    ids=["cut", "missing", "no gzip", "no json", "no module"],
)
def test_a_damaged_module_is_one_sentence_with_the_file(copied: Path, damage: Any, message: str) -> None:
    dump = open_dump(copied)
    stage = dump.find("merge-linear")
    damage(copied / stage.module)
    with pytest.raises(UserError, match=message) as caught:
        dump.program(stage)
    assert str(caught.value).startswith(f"{copied / stage.module}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", [cut, write("[]"), write('{"weight": {}}'), write('{"weight": {"sources": 1}}')])
def test_a_damaged_plan_is_one_sentence_with_the_file(copied: Path, damage: Any) -> None:
    dump = open_dump(copied)
    stage = dump.find("merge-linear")
    damage(copied / stage.plan)
    with pytest.raises(UserError) as caught:
        dump.program(stage)
    assert str(caught.value).startswith(f"{copied / stage.plan}: ")


def changed_index(**changes: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_text("{"), "damaged: not JSON"),
        (lambda path: path.write_text("[]"), "not the index of a dump"),
        (lambda path: path.write_text('{"scripts": {}}'), "not the index of a dump"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "not UTF-8"),
        (changed_index(format_version=2), "has the format version 2, this vamc-py reads 1"),
        (changed_index(prefill="many"), "prefill: .*compile again"),
        (changed_index(stages=[{"index": 0}]), r"stages\.0\..*compile again"),
    ],
)
def test_a_damaged_index_is_a_sentence(copied: Path, damage: Any, message: str) -> None:
    damage(copied / "pipeline.json")
    with pytest.raises(UserError, match=message) as caught:
        open_dump(copied)
    assert str(caught.value).startswith(f"{copied / 'pipeline.json'}: ")


def test_an_index_names_files_of_its_own_folder_only(copied: Path) -> None:
    index = json.loads((copied / "pipeline.json").read_text())
    index["stages"][1]["module"] = "../000_import.json.gz"
    (copied / "pipeline.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"stages\.1\.module"):
        open_dump(copied)


def test_damaged_times_are_a_sentence(copied: Path) -> None:
    (copied / "times.json").write_text('{"trace": "long"}')
    with pytest.raises(UserError, match=r"times\.json: damaged"):
        open_dump(copied)
    (copied / "times.json").unlink()
    assert open_dump(copied).times == {}


def test_other_folders_are_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "old_artifact").mkdir()
    (tmp_path / "old_artifact" / "manifest.json").write_text("{}")
    for name, message in {
        "missing": "no such folder",
        "file": "a file; name the folder",
        "old_artifact": "an artifact without its IR; compile it again",
        ".": "neither a dump nor an artifact",
    }.items():
        with pytest.raises(UserError, match=message):
            open_dump(tmp_path / name)


def test_the_dump_of_an_artifact_is_found(copied: Path, tmp_path: Path) -> None:
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    copied.rename(artifact / "ir")
    assert open_dump(artifact).find("last").label == "bundle-parameters"


# Writing


@I.ir_module
class Small:
    @R.function
    def step(x: R.Tensor((4, 8), "float32"), weight: R.Tensor((8, 8), "float32")):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            y = R.matmul(x, weight)
            z = R.add(y, y)
            R.output(z)
        return z


@dataclass(frozen=True)
class Noting(Pass):
    """Adds a note. Nothing else."""

    name: ClassVar[str] = "noting"
    stage: ClassVar[Stage] = "raise"

    def apply(self, program: Program, context: Context) -> Program:
        return program.note(f"note {len(program.notes)}")


@dataclass(frozen=True)
class Forgetting(Pass):
    """Drops the last note."""

    name: ClassVar[str] = "forgetting"
    stage: ClassVar[Stage] = "raise"

    def apply(self, program: Program, context: Context) -> Program:
        return replace(program, notes=program.notes[:-1])


@dataclass(frozen=True)
class Renaming(Pass):
    """Gives the weight another name: the module is structurally the same."""

    name: ClassVar[str] = "renaming"
    stage: ClassVar[Stage] = "raise"

    def apply(self, program: Program, context: Context) -> Program:
        old = layout(program.function)[2][0]
        new = relax.Var("renamed", old.ty)
        graph = Graph(program.function)
        function = graph.rebuild(parameters=[*graph.parameters[:-1], new], substitute={old: new})
        recipe = program.plan[old.name]
        return program.with_function(function, plan=type(program.plan)({new.name: recipe}))


@dataclass(frozen=True)
class Failing(Pass):
    """Fails."""

    name: ClassVar[str] = "failing"
    stage: ClassVar[Stage] = "raise"

    def apply(self, program: Program, context: Context) -> Program:
        raise RuntimeError("the pass is wrong")


def small_dump(folder: Path, *passes: Pass) -> Dump:
    folder.mkdir()
    writer = DumpWriter(folder, None, text=True)
    run_passes(program_of(Small), planned(passes), context_for(), [writer])
    return open_dump(folder)


def test_notes_are_kept_exactly(tmp_path: Path) -> None:
    dump = small_dump(tmp_path / "dump", Noting(), Noting(), Forgetting(), Noting())
    assert [stage.notes for stage in dump.index.stages] == [(), ("note 0",), ("note 1",), (), ("note 1",)]
    last = ["note 0", "note 1"]
    assert [list(dump.notes(stage)) for stage in dump.index.stages] == [[], last[:1], last, last[:1], last]


def test_a_renamed_weight_is_another_module(tmp_path: Path) -> None:
    dump = small_dump(tmp_path / "dump", Renaming())
    program = dump.program(dump.find("renaming"))
    assert [weight.name for weight in layout(program.function)[2]] == list(program.plan) == ["renamed"]


def test_what_came_before_a_fault_is_there(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the pass is wrong"):
        small_dump(tmp_path / "dump", Noting(), Failing())
    dump = open_dump(tmp_path / "dump")
    assert [stage.label for stage in dump.index.stages] == ["import", "noting"]
    assert dump.program(dump.find("last")).notes == ("note 0",)
    assert not list(dump.folder.rglob("*.partial"))


def test_an_index_without_stages_is_a_sentence(tmp_path: Path) -> None:
    index = DumpIndex(name="", target={}, prefill=1, context=1, config=(), built_with={}, stages=())
    (tmp_path / "pipeline.json").write_text(index.model_dump_json())
    with pytest.raises(UserError, match="no stage to show"):
        open_dump(tmp_path).find("last")


def test_calls_are_counted_in_branches_too() -> None:
    @I.ir_module
    class Branching:
        @R.function
        def main(flag: R.Tensor((), "bool"), x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
            if flag:  # noqa: SIM108  (TVMScript has no ternary operator)
                y = R.add(x, x)
            else:
                y = R.multiply(x, x)
            return y

    assert operator_counts(Branching) == {"add": 1, "multiply": 1}


def test_a_dump_is_replaced_and_other_files_stay(copied: Path) -> None:
    (copied / "notes.txt").write_text("mine")
    (copied / ".001_simplify.py.partial").write_text("half")
    prepare_dump_folder(copied)
    assert [path.name for path in copied.iterdir()] == ["notes.txt"]


def test_a_folder_is_made(tmp_path: Path) -> None:
    for _ in range(2):
        prepare_dump_folder(tmp_path / "a" / "b")
        assert list((tmp_path / "a" / "b").iterdir()) == []


def test_what_a_killed_compile_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / ".pipeline.json.partial").write_text("{")
    prepare_dump_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="no permission"):
        prepare_dump_folder(tmp_path)


def test_folders_with_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_text("mine")
    with pytest.raises(UserError, match="files in it that are no dump"):
        prepare_dump_folder(tmp_path)
    with pytest.raises(UserError, match="a file; name a folder"):
        prepare_dump_folder(tmp_path / "photo.png")
    with pytest.raises(UserError, match="no dump can be written"):
        prepare_dump_folder(tmp_path / "photo.png" / "below")
    assert (tmp_path / "photo.png").read_text() == "mine"


def test_the_dump_of_an_artifact_is_not_replaced(copied: Path) -> None:
    (copied.parent / "manifest.json").write_text("{}")
    before = digests(copied)
    with pytest.raises(UserError, match="belongs to an artifact"):
        prepare_dump_folder(copied)
    assert digests(copied) == before
