"""Damaged copies of the examples: each loads, or is refused with a place; never anything else."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from support.yaml_mutations import MUTATIONS, VALUES, Mutation

from vamc_py.config import check_compilable, load_config, load_text
from vamc_py.errors import ConfigError

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))
PLACED = re.compile(r"^.+?(:\d+:\d+: |: )\S")


def _faults_of(load: Callable[[], object]) -> list[str]:
    """The faults with which a load is refused; none when it succeeds. Any other exception fails the test."""
    try:
        load()
    except ConfigError as error:
        return error.faults or ["a refusal without a reason"]
    return []


def _loads_or_refuses(path: Path) -> bool:
    faults = _faults_of(lambda: load_config(path))
    assert all(PLACED.match(fault) and str(path) in fault and "\n" not in fault for fault in faults), faults
    if not faults:
        loaded = load_config(path)
        assert load_text(loaded.text, path).config == loaded.config
        _faults_of(lambda: check_compilable(loaded))
    return not faults


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_mutated_examples(mutation: Mutation, tmp_path: Path) -> None:
    """40 of each of the five kinds: 200 files."""
    rng = random.Random(mutation.__name__)
    refused = 0
    for _ in range(40):
        path = tmp_path / "mutated.yaml"
        path.write_bytes(mutation(rng.choice(EXAMPLES).read_bytes(), rng))
        refused += not _loads_or_refuses(path)
    assert refused > 0


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(VALUES)
_KEYS = st.sampled_from(
    ["name", "model", "frontend", "backend", "checkpoint", "shape", "input_ids", "type", "dtype", "quantize", "compile",
     "model_kwargs", "workspace", "work_dir", "dataset", "graph", "params"]
)  # fmt: skip
_TREES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS | st.text(max_size=3), inner),
    max_leaves=12,
)


@given(st.dictionaries(_KEYS, _TREES))
@settings(deadline=None, max_examples=100)
def test_any_tree_loads_or_is_refused(tree: dict[str, object]) -> None:
    text = yaml.safe_dump(tree, allow_unicode=True)
    faults = _faults_of(lambda: load_text(text, Path("c.yaml")))
    assert all(PLACED.match(fault) for fault in faults), faults


@given(st.text(max_size=40), st.lists(st.text(max_size=30), max_size=2))
@settings(deadline=None, max_examples=150)
def test_any_text_and_override_load_or_are_refused(text: str, overrides: list[str]) -> None:
    faults = _faults_of(lambda: load_text("name: x\n" + text, Path("c.yaml"), overrides))
    assert all(PLACED.match(fault) and "\n" not in fault for fault in faults), faults
