"""What the documents say of the code, where a program can tell."""

from __future__ import annotations

import itertools
import re
import shlex

import pytest
import typer
from support.project_tree import ROOT

from vamc_py import cli
from vamc_py.pipeline.base import Pass
from vamc_py.pipeline.default import Numbers, all_passes, default_pipeline, vacc_pipeline

_ROW = re.compile(r"^\| `([a-z0-9-]+)` \| (raise|rewrite|lower) \|", re.MULTILINE)
DTYPES = ("int8", "fp16", "bf16", "fp32")


def documented_passes() -> dict[str, str]:
    """Stage by name, in the order of the table."""
    return dict(_ROW.findall((ROOT / "docs/architecture.md").read_text()))


def _pipeline(dtype: str) -> tuple[Pass, ...]:
    return all_passes() if dtype == "int8" else default_pipeline(Numbers(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_table_of_passes_is_the_pipeline(dtype: str) -> None:
    pipeline = {one.name: one.stage for one in _pipeline(dtype)}
    documented = {name: stage for name, stage in documented_passes().items() if name in pipeline}
    assert list(documented.items()) == list(pipeline.items())


@pytest.mark.parametrize("numbers", [Numbers("fp16"), Numbers("int8", lm_head=False, rules=("*=w4a16",))])
def test_the_tables_have_the_passes_of_vacc(numbers: Numbers) -> None:
    pipeline = {one.name: one.stage for one in vacc_pipeline(numbers)}
    documented = {name: stage for name, stage in documented_passes().items() if name in pipeline}
    assert list(documented.items()) == list(pipeline.items())


def test_the_tables_name_no_other_pass() -> None:
    known = {one.name for dtype in DTYPES for one in (*_pipeline(dtype), *vacc_pipeline(Numbers(dtype)))}
    assert set(documented_passes()) == known


def test_the_readme_shows_every_command() -> None:
    shown = re.findall(r"^\| `vamc-py ([\w-]+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert shown == [command.__name__.rpartition(".")[2].replace("_", "-") for command in cli.COMMANDS]


def documented_commands() -> list[tuple[str, str]]:
    """(document, command) for each indented or console line of the documents that calls vamc-py."""
    documents = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    pattern = re.compile(r"^(?:    |\$ )(vamc-py .*)$", re.MULTILINE)
    return [(path.name, line) for path in documents for line in pattern.findall(path.read_text())]


@pytest.mark.parametrize(("document", "line"), documented_commands())
def test_documented_commands_are_understood(document: str, line: str) -> None:
    """Every command that a document shows exists and takes these arguments and options; none is run."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";|&")
    lexer.whitespace_split, lexer.commenters = True, "#"
    words = list(itertools.takewhile(lambda word: not set(word) <= set(";|&"), lexer))
    context = typer.main.get_command(cli.build_app()).make_context("vamc-py", words[1:])
    while isinstance(context.command, typer.core.TyperGroup):
        name, command, arguments = context.command.resolve_command(context, [*context._protected_args, *context.args])
        assert command is not None
        context = command.make_context(name, arguments, parent=context)
