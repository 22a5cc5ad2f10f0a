"""Every kind of fault, with its exact text: the place, the key, what is wrong and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from vamc_py.config import load_config, load_text
from vamc_py.config.tree import MOST_CHARACTERS
from vamc_py.errors import ConfigError

GOOD = """\
name: small
frontend:
  checkpoint: models/small
  type: huggingface
  shape:
    input_ids: [[512], [2048]]
  model_kwargs:
    tp: 4
backend:
  type: tvm_llvm
  dtype: int8
"""


NO_MAPPING = "; a configuration begins with keys such as name:, frontend:, backend:"
NEAR_HERE = "; check the indentation, quotes and colons near here"
UNFIT = "a null character or half a surrogate pair, which no file name can hold"
NOT_USED = "is not used here; remove it"
OUT_OF_RANGE = "c.yaml:1:1: not YAML: a \\U escape or a %YAML version is out of range"
SOME_READERS = "is a number to some readers of YAML only; write it in decimal digits, or in quotes if it is text"


def faults(text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_text(text, Path("c.yaml"), overrides)
    return caught.value.faults


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("backend:", "bakend:", "c.yaml:9:1: bakend: unknown key; did you mean backend?"),
        ("    tp: 4", "    tpp: 4", "c.yaml:8:5: frontend.model_kwargs.tpp: unknown key; did you mean tp?"),
        (
            "    tp: 4",
            "    merge_params: true",
            "c.yaml:8:5: frontend.model_kwargs.merge_params: unknown key here; it belongs in backend.merge_params",
        ),
        (
            "    tp: 4",
            "    zzz: 4",
            "c.yaml:8:5: frontend.model_kwargs.zzz: unknown key; known here: b2s, tp, model_arch, align_qkv, "
            "trust_remote_code, build_visual",
        ),
        (
            "type: tvm_llvm",
            "type: tvm_lvm",
            "c.yaml:10:9: backend.type: 'tvm_lvm' is not one of tvm_vacc, tvm_llvm, tvm_cuda; did you mean tvm_llvm?",
        ),
        (
            "dtype: int8",
            "dtype: 8",
            "c.yaml:11:10: backend.dtype: must be one of int8, fp16, bf16, fp32, not the number 8",
        ),
        ("  dtype: int8\n", "", "c.yaml:9:1: backend.dtype: missing. The weights' data type."),
        ("name: small\n", "", "c.yaml:1:1: name: missing. Name of the artifact's folder."),
        ("tp: 4", "tp: four", "c.yaml:8:9: frontend.model_kwargs.tp: must be a whole number, not the text 'four'"),
        ("tp: 4", "tp: true", "c.yaml:8:9: frontend.model_kwargs.tp: must be a whole number, not true"),
        ("tp: 4", "tp: 4.0", "c.yaml:8:9: frontend.model_kwargs.tp: must be a whole number, not the number 4.0"),
        ("tp: 4", "tp:", "c.yaml:8:5: frontend.model_kwargs.tp: must be a whole number, not empty"),
        ("tp: 4", "tp: 0", "c.yaml:8:9: frontend.model_kwargs.tp: 0 is too small; it must be 1 or more"),
        ("tp: 4", "tp: 5000", "c.yaml:8:9: frontend.model_kwargs.tp: 5000 is too large; it must be 1024 or less"),
        ("tp: 4", "b2s: 1", "c.yaml:8:10: frontend.model_kwargs.b2s: must be true or false, not the number 1"),
        (
            "name: small",
            "name: 2024",
            "c.yaml:1:7: name: must be text, not the number 2024; put it in quotes if it is meant as text",
        ),
        (
            "name: small",
            "name: no",
            "c.yaml:1:7: name: must be text, not false; put it in quotes if it is meant as text",
        ),
        ("name: small", "name: ''", "c.yaml:1:1: name: must not be empty"),
        (
            "name: small",
            "name: a/b",
            "c.yaml:1:7: name: 'a/b' has a character that a folder name cannot hold (a slash, a line break, ...)",
        ),
        (
            "name: small",
            "name: ..",
            "c.yaml:1:7: name: this would not be a folder of its own below workspace.path; choose another name",
        ),
        (
            "name: small",
            f"name: {'x' * 201}",
            "c.yaml:1:7: name: longer than 200 characters",
        ),
        (
            "\n    tp: 4",
            " [1]",
            "c.yaml:7:17: frontend.model_kwargs: must be a mapping (its keys indented below it), not a list",
        ),
        (
            "[[512], [2048]]",
            "[[500], [2048]]",
            "c.yaml:6:18: frontend.shape.input_ids[0][0]: 500 is not a multiple of 16; 496 and 512 are",
        ),
        (
            "[[512], [2048]]",
            "[[7], [2048]]",
            "c.yaml:6:18: frontend.shape.input_ids[0][0]: 7 is not a multiple of 16; 32 and 16 are",
        ),
        (
            "[[512], [2048]]",
            "[[512], [-16]]",
            "c.yaml:6:25: frontend.shape.input_ids[1][0]: -16 is too small; it must be above 0",
        ),
        (
            "[[512], [2048]]",
            "[[512, 4096], [2048]]",
            "c.yaml:6:17: frontend.shape.input_ids[0]: the prefill length 4096 is longer than the context length 2048; "
            "a prompt has to fit in the context",
        ),
        (
            "[[512], [2048]]",
            "[[], [2048]]",
            "c.yaml:6:17: frontend.shape.input_ids[0]: the list is empty; it needs at least 1",
        ),
        (
            "[[512], [2048]]",
            "[[512]]",
            "c.yaml:6:16: frontend.shape.input_ids[1]: missing; write [[prefill lengths], [context lengths]]",
        ),
        (
            "[[512], [2048]]",
            "[[512], [1024], [2048]]",
            "c.yaml:6:16: frontend.shape.input_ids: 3 lists; write two, [[prefill lengths], [context lengths]]",
        ),
        (
            "[[512], [2048]]",
            "[[512], 2048]",
            "c.yaml:6:24: frontend.shape.input_ids[1]: must be a list such as [1, 2], not the number 2048",
        ),
        (
            "[[512], [2048]]",
            "[1, 512]",
            "c.yaml:6:16: frontend.shape.input_ids: a flat list is the shape of a graph's input; for a language model "
            "write input_ids: [[prefill lengths], [context lengths]], such as [[512], [2048]]",
        ),
        (
            "input_ids: [[512], [2048]]",
            "input: [1, 3]",
            "c.yaml:5:3: frontend.shape.input_ids: missing; write input_ids: [[prefill lengths], [context lengths]], "
            "such as [[512], [2048]]",
        ),
        (
            "    tp: 4",
            "    tp: 4\n    tp: 2",
            "c.yaml:9:5: frontend.model_kwargs.tp: written twice (first at line 8); keep one",
        ),
        (
            "name: small",
            "name: small\nmodel: other",
            "c.yaml:2:1: model: an old name of name, which is written as well; keep one",
        ),
        (
            "tp: 4",
            "tp: 010",
            "c.yaml:8:9: frontend.model_kwargs.tp: '010' " + SOME_READERS,
        ),
        ("tp: 4", "tp: .inf", "c.yaml:8:9: frontend.model_kwargs.tp: '.inf' " + SOME_READERS),
        (
            "tp: 4",
            "tp: !!python/name:os.system x",
            "c.yaml:8:9: frontend.model_kwargs.tp: the tag tag:yaml.org,2002:python/name:os.system is not used here; "
            "remove it",
        ),
        (
            "    tp: 4",
            "    <<: {tp: 4}",
            "c.yaml:8:5: frontend.model_kwargs: merge keys (<<) are not read here; write the keys out",
        ),
        (
            "    tp: 4",
            "    ? [tp]\n    : 4",
            "c.yaml:8:7: frontend.model_kwargs: a key must be plain text, not a list or a mapping",
        ),
        ("name: small", 'name: "\\ud800"', f"c.yaml:1:7: name: {UNFIT}"),
        ("models/small", '"a\\0b"', f"c.yaml:3:15: frontend.checkpoint: {UNFIT}"),
        ("    tp: 4", '    "t\\0": 4', f"c.yaml:8:5: frontend.model_kwargs: a key with {UNFIT}"),
        (
            "  shape:\n    input_ids: [[512], [2048]]",
            "  shape: &s\n    x: *s",
            "c.yaml:6:5: frontend.shape.x: an alias that contains itself",
        ),
    ],
)
def test_fault_of_one_value(old: str, new: str, expected: str) -> None:
    assert expected in faults(changed(old, new))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "c.yaml:1:1: the file is empty" + NO_MAPPING),
        ("# only a comment\n", "c.yaml:1:1: the file is empty" + NO_MAPPING),
        ("- a\n", "c.yaml:1:1: a list" + NO_MAPPING),
        ("words\n", "c.yaml:1:1: the text 'words'" + NO_MAPPING),
        ("!!python/object:os.system {}\n", "c.yaml:1:1: the tag tag:yaml.org,2002:python/object:os.system " + NOT_USED),
        ("name: x\n\tfrontend: y\n", "c.yaml:2:1: a tab: YAML indents with spaces"),
        ("name: x\n---\nname: y\n", "c.yaml:2:1: a second document begins here: keep one configuration in a file"),
        ("name: a: b\n", "c.yaml:1:8: not YAML: mapping values are not allowed here" + NEAR_HERE),
        ("name: *x\n", "c.yaml:1:7: not YAML: found undefined alias 'x'" + NEAR_HERE),
        ("name: a\x07b\n", "c.yaml:1:8: the character U+0007 is not allowed in YAML"),
        ('name: "\\UFFFFFFFF"\n', OUT_OF_RANGE),
        (f"%YAML {'9' * 5000}.1\n---\na: 1\n", OUT_OF_RANGE),
        ("name: " + "[" * 5000, "c.yaml:1:38: nested more than 32 levels deep"),
        ("name: " + "x" * MOST_CHARACTERS, "c.yaml:1:1: longer than 262144 characters: this is no configuration"),
    ],
)
def test_fault_of_the_whole_text(text: str, expected: str) -> None:
    assert faults(text) == [expected]


def test_alias_bomb() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    (fault,) = faults("\n".join(lines))
    assert "more than 10000 values: this is no configuration (aliases count each time)" in fault


def test_all_faults_at_once_from_top_to_bottom() -> None:
    text = """\
nam: x
frontend:
  checkpoint: 5
  typ: hugginface
  shape:
    input_ids: [[1000], [512]]
  model_kwargs:
    tp: four
    tp: 2
backend:
  type: tvm_lvm
"""
    found = faults(text, "backend.dtyp=int8", "frontend.quantize.type=w8a61", "workspace", "dataset.nsamples=[")
    assert [line.split(": ")[0] for line in found[:9]] == [
        *("c.yaml:1:1", "c.yaml:1:1", "c.yaml:3:15", "c.yaml:4:3", "c.yaml:6:17", "c.yaml:6:18", "c.yaml:8:9"),
        *("c.yaml:9:5", "c.yaml:10:1"),
    ]
    assert [line.split(": ")[0] for line in found[9:]] == [
        "c.yaml:11:9",
        "--set backend.dtyp=int8",
        "--set frontend.quantize.type=w8a61",
        "--set workspace",
        "--set dataset.nsamples=[",
    ]


def test_wrong_element_does_not_make_its_list_empty() -> None:
    assert len(faults(changed("[[512], [2048]]", "[[1000], [2048]]"))) == 1


def test_refused_value_is_not_called_missing_too() -> None:
    found = faults(changed("name: small", "name: 010"))
    assert len(found) == 1


def test_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert caught.value.faults == [
        f"{path}: no such file; check the path (a relative one starts at the current directory)"
    ]


def test_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path)
    assert caught.value.faults == [f"{tmp_path}: a directory; name the YAML file in it"]


def test_path_that_no_system_opens() -> None:
    with pytest.raises(ConfigError, match="null"):
        load_config(Path("a\0b.yaml"))
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(Path("x" * 5000))


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes("name: ok\nfrontend: é".encode("latin-1"))
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert caught.value.faults == [f"{path}:2:11: byte 0xe9 is not UTF-8; save the file as UTF-8 text"]


def test_huge_file_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "huge.yaml"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # sparse: a terabyte that takes no space
    with pytest.raises(ConfigError, match="longer than 262144 characters"):
        load_config(path)


def test_long_values_are_cut_in_messages() -> None:
    (fault,) = faults(changed("dtype: int8", f"dtype: {'y' * 10_000}"))
    assert len(fault) < 200
