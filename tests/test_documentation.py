"""What the documents say of the code, where a program can tell."""

from __future__ import annotations

import re

import pytest
from support.project_tree import ROOT

from vamc_py import cli
from vamc_py.pipeline.default import default_pipeline

_ROW = re.compile(r"^\| `([a-z0-9-]+)` \| (raise|rewrite|lower) \|", re.MULTILINE)
DTYPES = ("int8", "fp16", "bf16", "fp32")


def documented_passes() -> dict[str, str]:
    """Stage by name, in the order of the table."""
    return dict(_ROW.findall((ROOT / "docs/architecture.md").read_text()))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_table_of_passes_is_the_pipeline(dtype: str) -> None:
    pipeline = {one.name: one.stage for one in default_pipeline(dtype, quantize_lm_head=True)}
    documented = {name: stage for name, stage in documented_passes().items() if name in pipeline}
    assert list(documented.items()) == list(pipeline.items())


def test_the_table_names_no_other_pass() -> None:
    known = {one.name for dtype in DTYPES for one in default_pipeline(dtype, quantize_lm_head=True)}
    assert set(documented_passes()) == known


def test_the_readme_shows_every_command() -> None:
    shown = re.findall(r"^\| `vamc-py (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert shown == [command.__name__.rpartition(".")[2] for command in cli.COMMANDS]
