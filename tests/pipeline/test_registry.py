"""Which passes there are: built in, of installed packages, and in files; and what is refused, with a sentence."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from support.foreign_passes import CLAMP, HEAD, install, write_pass_file

from vamc_py import __version__
from vamc_py.errors import UserError
from vamc_py.passes.cast_weights import CastWeights
from vamc_py.passes.quantize_int8 import QuantizeInt8
from vamc_py.passes.shard_tensors import ShardTensors
from vamc_py.passes.simplify import Simplify
from vamc_py.pipeline.base import Context, Pass, Stage
from vamc_py.pipeline.default import all_passes
from vamc_py.pipeline.pass_options import Option
from vamc_py.pipeline.program import Program
from vamc_py.pipeline.registry import (
    built_in_passes,
    check_pass_class,
    find_pass,
    load_pass_file,
    make_pass,
    option_values,
    options_of,
    registered_passes,
    summary,
)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of sys.path; modules imported from it are forgotten after the test."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def test_the_built_in_passes_are_those_of_the_default_pipeline_and_of_several_dies() -> None:
    found = built_in_passes()
    default = {one.name: type(one) for one in (*all_passes(), ShardTensors())}
    assert {name: one.kind for name, one in found.items()} == default
    assert {one.origin for one in found.values()} == {f"vamc-py {__version__}"}
    assert all(one.built_in and summary(one.kind).endswith(".") for one in found.values())


def test_a_package_offers_its_passes_by_entry_points(site: Path) -> None:
    install(site, "clamping", "1.2", {"clamp": "clamping_passes:Clamp"}, clamping_passes=CLAMP)
    clamp = registered_passes()["clamp"]
    assert (clamp.kind.__name__, clamp.origin, clamp.built_in) == ("Clamp", "clamping 1.2", False)
    assert find_pass("clamp") == clamp
    assert find_pass("simplify").kind is Simplify


PACKAGE = "the package clamping 1.2, entry point"
PACKAGES = [
    (
        "clamp = absent_module:Clamp",
        "",
        f"{PACKAGE} clamp = absent_module:Clamp: cannot be imported: ModuleNotFoundError: No module named "
        "'absent_module'; mend or uninstall clamping",
    ),
    (
        "clamp = clamping_passes:Clamp",
        "1 / 0",
        f"{PACKAGE} clamp = clamping_passes:Clamp: cannot be imported: ZeroDivisionError: division by zero; "
        "mend or uninstall clamping",
    ),
    (
        "bound = clamping_passes:Clamp",
        CLAMP,
        f"{PACKAGE} bound = clamping_passes:Clamp: the pass has the name clamp; the entry point must have the same",
    ),
    (
        "clamp = clamping_passes:HEAD",
        "HEAD = 1",
        f"{PACKAGE} clamp = clamping_passes:HEAD: no class derived from vamc_py.pipeline.base.Pass",
    ),
    (
        "simplify = clamping_passes:Clamp",
        CLAMP.replace('"clamp"', '"simplify"'),
        f"two passes have the name simplify: one of vamc-py {__version__} and one of clamping 1.2; uninstall "
        "clamping, or have its pass renamed",
    ),
]


@pytest.mark.parametrize(("entry_point", "module", "message"), PACKAGES)
def test_a_package_whose_pass_cannot_be_used(site: Path, entry_point: str, module: str, message: str) -> None:
    name, _, value = entry_point.partition(" = ")
    install(site, "clamping", "1.2", {name: value}, clamping_passes=module)
    with pytest.raises(UserError) as refused:
        registered_passes()
    assert str(refused.value) == message


def test_two_packages_with_one_name_are_both_named(site: Path) -> None:
    install(site, "clamping", "1.2", {"clamp": "clamping_passes:Clamp"}, clamping_passes=CLAMP)
    install(site, "bounding", "0.3", {"clamp": "bounding_passes:Clamp"}, bounding_passes=CLAMP)
    with pytest.raises(UserError, match=r"clamp: one of bounding 0\.3 and one of clamping 1\.2; uninstall clamping"):
        registered_passes()


def test_a_class_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = f"{write_pass_file(tmp_path)}:Clamp"
    clamp = load_pass_file(reference)
    assert (clamp.kind.name, clamp.origin, clamp.built_in) == ("clamp", reference, False)
    assert make_pass(clamp.kind, {"limit": 2}) == clamp.kind(limit=2.0)  # type: ignore[call-arg]
    monkeypatch.chdir(tmp_path)
    assert find_pass("clamp.py:Clamp").origin == "clamp.py:Clamp"
    assert "clamp" not in sys.modules


FILES = [
    (CLAMP, "Clmap", ": there is no class Clmap; did you mean Clamp?"),
    (HEAD, "Clamp", ": there is no class Clamp; it has no pass"),
    ("import nowhere", "Clamp", ":1: cannot be imported: ModuleNotFoundError: No module named 'nowhere'"),
    ("\nclass Clamp(:", "Clamp", ":2: cannot be imported: SyntaxError: invalid syntax"),
    ("import sys\nsys.exit(3)", "Clamp", ":2: cannot be imported: SystemExit: 3"),
    ("Clamp = 3", "Clamp", ":Clamp: no class derived from vamc_py.pipeline.base.Pass"),
]


@pytest.mark.parametrize(("text", "name", "message"), FILES)
def test_a_file_that_holds_no_pass(tmp_path: Path, text: str, name: str, message: str) -> None:
    path = write_pass_file(tmp_path, text)
    with pytest.raises(UserError) as refused:
        load_pass_file(f"{path}:{name}")
    assert str(refused.value) == path + message


NOT_FROZEN = "no frozen dataclass; write @dataclass(frozen=True) above the class"
NO_NAME = (
    'its name must be words of small letters and digits joined by hyphens, such as name: ClassVar[str] = "fuse-bias"'
)
NO_TYPE = (
    "the option limit has the type vamc_py.pipeline.graph.Graph, which no YAML can say; use bool, int, float, str, "
    "Literal, or tuples and dicts of them"
)
NO_DEFAULT = "the option limit has no default; give it one, so that the pass runs by name"
NO_STAGE = 'its stage must be one of raise, rewrite, lower, such as stage: ClassVar[Stage] = "rewrite"'
NO_TUPLE = 'its after must be a tuple of names of passes, such as after: ClassVar[tuple[str, ...]] = ("merge-linear",)'
CLASSES = [
    ("(frozen=True)", "", NOT_FROZEN),
    ("@dataclass(frozen=True)", "", NOT_FROZEN),
    ("def apply", "def run", "it has no method apply(self, program, context)"),
    ("name: ClassVar[str]", "name: str", "name would be an option; write it as name: ClassVar[…]"),
    ('"clamp"', '"Clamp It"', NO_NAME),
    ('name: ClassVar[str] = "clamp"', "", NO_NAME),
    ('"rewrite"', '"write"', NO_STAGE),
    ('("kv-cache-layout", "a-pass-that-nobody-has")', '("simplify")', NO_TUPLE),
    ("float = 30.0", "float", NO_DEFAULT),
    ("float = 30.0", "Graph = 30.0", NO_TYPE),
    ("float = 30.0", "float = None", "the default of the option limit is not a number"),
    ("float = 30.0", "Absent = 30.0", "the types of its fields cannot be read: name 'Absent' is not defined"),
]


@pytest.mark.parametrize(("old", "new", "message"), CLASSES)
def test_a_class_that_cannot_run_in_a_pipeline(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in CLAMP
    path = write_pass_file(tmp_path, CLAMP.replace(old, new))
    with pytest.raises(UserError) as refused:
        load_pass_file(f"{path}:Clamp")
    assert str(refused.value) == f"{path}:Clamp: {message}"


def test_a_file_that_is_absent(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no\.py: no such file; a relative path starts at the current directory"):
        load_pass_file(f"{tmp_path}/no.py:Clamp")


def test_an_unknown_name() -> None:
    with pytest.raises(UserError, match=r"no pass has the name simplfy; did you mean simplify\?"):
        find_pass("simplfy")


def test_options_are_the_fields(tmp_path: Path) -> None:
    assert options_of(Simplify) == ()
    assert options_of(QuantizeInt8) == (
        Option("lm_head", "true or false", True),
        Option("rules", "a list of text", []),
    )
    assert options_of(CastWeights) == (Option("dtype", "float16 or bfloat16", "float16"),)
    clamp = load_pass_file(f"{write_pass_file(tmp_path)}:Clamp").kind
    assert options_of(clamp) == (
        Option("limit", "a number", 30.0),
        Option("labels", "a list of text", ["low", "high"]),
        Option("how", "both or above", "both"),
    )
    made = make_pass(clamp, {"labels": ["x"], "how": "above"})
    assert option_values(made) == {"limit": 30.0, "labels": ["x"], "how": "above"}
    assert make_pass(clamp, option_values(made)) == made
    assert summary(clamp) == "Bounds the logits."


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limt": 1}, "the pass clamp has no option limt; did you mean limit?"),
        ({"x": 1}, "the pass clamp has no option x; it has limit, labels, how"),
        ({"limit": "1"}, "the option limit of clamp must be a number, not the text '1'"),
        ({"limit": True}, "the option limit of clamp must be a number, not true"),
        ({"limit": None}, "the option limit of clamp must be a number, not empty"),
        ({"limit": float("nan")}, "the option limit of clamp must be plain data, as a YAML has it"),
        ({"limit": 1j}, "the option limit of clamp must be plain data, as a YAML has it"),
        (
            {"labels": ["x", 1]},
            "the option labels of clamp must be a list of text, not a list (Input should be a valid string)",
        ),
        ({"how": "below"}, "the option how of clamp must be both or above, not the text 'below'"),
        ({"limit": -1}, "the pass clamp: limit is -1.0; it must be above 0"),
        (
            {"limit": "1", "y": 0},
            "the option limit of clamp must be a number, not the text '1'\n"
            "the pass clamp has no option y; it has limit, labels, how",
        ),
    ],
)
def test_options_that_are_refused(tmp_path: Path, options: dict[str, object], message: str) -> None:
    clamp = load_pass_file(f"{write_pass_file(tmp_path)}:Clamp").kind
    with pytest.raises(UserError) as refused:
        make_pass(clamp, options)
    assert str(refused.value) == message


def test_a_pass_without_options_says_so() -> None:
    with pytest.raises(UserError, match="the pass simplify has no option limit; it has none"):
        make_pass(Simplify, {"limit": 1})


def test_a_subclass_of_a_pass_is_decorated_itself() -> None:
    @dataclass(frozen=True)
    class Parent(Pass):
        name: ClassVar[str] = "parent"
        stage: ClassVar[Stage] = "raise"

        def apply(self, program: Program, context: Context) -> Program:
            return program

    class Child(Parent):
        width: int = 3

    assert check_pass_class(Parent, "here") is Parent
    with pytest.raises(UserError, match="here: no frozen dataclass"):
        check_pass_class(Child, "here")
