"""The small script: valid Python, every binding with its shape, and no longer for weights of more layers."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from support.dumps import make_dump, run_all, tiny_configuration
from support.relax_modules import program_of
from tvm.script import ir as I
from tvm.script import relax as R

from vamc_py.inspect.kernel_source import kernel_names
from vamc_py.inspect.script import grouped, small_script
from vamc_py.pipeline.program import Program, layout

STAGES = ["import", "kv-cache-layout", "quantize-int8", "select-kernels", "bundle-parameters"]


Programs = Mapping[str, Program]


def programs_of(folder: Path, layers: int) -> Programs:
    runs, _ = run_all(tiny_configuration(folder, layers, "int8", "qwen3", (), {}))
    after = {run.planned.label: run.after for run in runs}
    return {"import": runs[0].before, **after}


@pytest.fixture(scope="module")
def three_layers(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    return programs_of(tmp_path_factory.mktemp("scripts") / "three", 3)


@pytest.fixture(scope="module")
def five_layers(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    return programs_of(tmp_path_factory.mktemp("scripts") / "five", 5)


def script(programs: Programs, stage: str) -> str:
    return small_script(programs[stage])


def function_of(text: str) -> ast.FunctionDef:
    [function] = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    return function


def head(text: str) -> list[str]:
    lines = text.splitlines()
    return lines[: next(i for i, line in enumerate(lines) if "R.func_attr" in line)]


@pytest.mark.parametrize("stage", STAGES)
def test_every_binding_is_there_with_its_shape(three_layers: Programs, stage: str) -> None:
    program = three_layers[stage]
    function = function_of(small_script(program))
    [block] = [node for node in ast.walk(function) if isinstance(node, ast.With)]
    bindings = [node for node in block.body if isinstance(node, ast.Assign | ast.AnnAssign)]
    expected = [b.var.name for relax_block in program.function.body.blocks for b in relax_block.bindings]
    assert len(bindings) == len(expected)
    for binding in bindings:  # calls of kernels say the shape of their result themselves
        assert isinstance(binding, ast.AnnAssign) or "out_ty=" in ast.unparse(binding)


@pytest.mark.parametrize("stage", STAGES)
def test_what_stands_before_the_body_does_not_grow_with_the_layers(
    three_layers: Programs, five_layers: Programs, stage: str
) -> None:
    three, five = (script(dump, stage) for dump in (three_layers, five_layers))
    assert len(head(three)) == len(head(five)) < 45
    assert "metadata" not in three
    if stage == "quantize-int8":
        assert "    #   model.layers.{0..4}.mlp.down_proj.weight: int8[64, 96]" in head(five)
        assert "    #   v_cache_{0..4}: float16[num_pages, 2, blocks, 16, 16]" in head(five)


def test_inputs_have_a_line_each(three_layers: Programs) -> None:
    arguments = function_of(script(three_layers, "quantize-int8")).args.args
    assert [argument.arg for argument in arguments] == ["tokens", "positions", "slots", "rows", "pages"]
    assert ast.unparse(arguments[-1]) == "pages: int32[s, p]"


def test_bundled_weights_keep_their_names(three_layers: Programs) -> None:
    before = three_layers["select-kernels"]
    names = [weight.name for weight in layout(before.function)[2]]
    text = script(three_layers, "bundle-parameters")
    taken = re.findall(r" = params\[(\d+)\]  # (.*)", text)
    assert len(taken) == len(names)
    assert all(names[int(index)] == name for index, name in taken)
    assert "    #   caches[{0..5}]: float16[num_pages, 2, blocks, 16, 16]" in text.splitlines()


def test_layers_are_marked(three_layers: Programs) -> None:
    for stage in STAGES:
        marks = [
            line.strip() for line in script(three_layers, stage).splitlines() if line.strip().startswith("# layer")
        ]
        assert marks == ["# layer 0", "# layer 1", "# layer 2"], stage


def test_constants_say_their_shape_and_first_values(three_layers: Programs) -> None:
    text = script(three_layers, "quantize-int8")
    assert "# constant_0: float32[8]: 1, 0.3162, 0.1, …" in text.splitlines()
    assert "R.vamc.rotary_angles(positions, constant_0, scaling=1.0)" in text


def test_kernels_have_a_signature_and_no_body(three_layers: Programs) -> None:
    program = three_layers["bundle-parameters"]
    text = small_script(program)
    for name in kernel_names(program.module):
        assert len(re.findall(rf"^#   {name}\(.*\)  \[\w+, \d+\]$", text, re.MULTILINE)) == 1, name
    assert "T.parallel" not in text
    [attention] = re.findall(r"qkv_attention_\w+\(.*", text)[:1]
    assert "pages: int32[v_1, v_2]" in attention  # sizes of one name are told apart
    assert "[qkv_attention, 3]" in attention


def test_one_function_only(three_layers: Programs) -> None:
    program = three_layers["bundle-parameters"]
    kernel = kernel_names(program.module)[0]
    assert "# Kernels" not in small_script(program, "step")
    assert "def step(" in small_script(program, "step")
    assert small_script(program, kernel).count("def ") == 1
    missing = small_script(program, "main")
    assert missing.startswith("# There is no function main here. The program has step, ")
    assert len(missing.splitlines()) == 1


@I.ir_module
class Two:
    @R.function
    def helper(x: R.Tensor(("n", 4), "float32")) -> R.Tensor(("n * 2", 4), "float32"):
        with R.dataflow():
            y = R.concat((x, x), axis=0)
            R.output(y)
        return y

    @R.function
    def main(x: R.Tensor(("n", 4), "float32"), pair: R.Tuple(R.Tensor((2,), "int64"), R.Tensor((2,), "int64"))):
        R.func_attr({"vamc.inputs": 2, "vamc.caches": 0})
        cls = Two
        y = cls.helper(x)
        first = pair[0]
        return (y, first)


def test_every_function_of_a_program_is_shown() -> None:
    program = program_of(Two).note("this stays slow")
    text = small_script(program)
    assert [node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)] == ["helper", "main"]
    assert "# helper with 1 binding, main with 2 bindings; no kernels." in text
    assert "#   this stays slow" in text
    assert "pair: R.Tuple,  # 2 members:" in text
    assert 'first: R.Tensor((2,), dtype="int64") = pair[0]\n' in text


def test_names_are_grouped_by_their_first_number() -> None:
    names = ["embed", *(f"h.{i}.w.{j}" for i in range(4) for j in range(2)), "h.9.w.0"]
    found = grouped([(name, "f") for name in names])
    assert found == [("embed", "f", 1), ("h.{0, 1, 2, 3, 9}.w.0", "f", 5), ("h.{0..3}.w.1", "f", 4)]


def test_other_types_make_other_groups() -> None:
    assert grouped([("w.0", "a"), ("w.1", "b"), ("w.2", "a")]) == [("w.{0, 2}", "a", 2), ("w.1", "b", 1)]


def test_texts_of_stages_are_files_of_python(tmp_path: Path) -> None:
    dump = make_dump(tmp_path / "dump", layers=1, dtype="fp16", architecture="qwen2")
    files = sorted(dump.folder.glob("*.py"))
    assert len(files) == len(dump.index.stages)
    for path in files:
        ast.parse(path.read_text())
        assert path.read_text().startswith(f"# {int(path.name[:3])} ")
