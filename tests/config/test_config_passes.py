"""The section ``passes``: what loads, what contradicts itself, each fault at its place."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from vamc_py.config import LoadedConfig, load_text
from vamc_py.config.passes import PASSES_EXAMPLE, PassChange
from vamc_py.errors import ConfigError

BASE = """\
name: small
frontend: {checkpoint: models/small, shape: {input_ids: [[512], [2048]]}}
backend: {type: tvm_llvm, dtype: int8}
"""


def load(passes: str, *overrides: str) -> LoadedConfig:
    """``passes`` begins at line 4."""
    return load_text(BASE + passes, Path("c.yaml"), overrides)


def faults(passes: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        load(passes, *overrides)
    return refused.value.faults


def test_the_example_of_the_reference_loads() -> None:
    changes = load(PASSES_EXAMPLE).config.passes
    assert [change.name or change.file for change in changes] == [
        "quantize-int8", "fuse-residual", "fuse-swiglu", "simplify", "my_pass.py:MyPass",
    ]  # fmt: skip
    assert changes[0].options == {"lm_head": False}
    assert [change.off for change in changes] == [None, True, None, None, None]


@pytest.mark.parametrize("passes", ["", "passes:\n", "passes: []\n"])
def test_no_change(passes: str) -> None:
    assert load(passes).config.passes == ()
    assert load(passes).notices == ()


def test_every_entry_has_its_own_place() -> None:
    loaded = load(PASSES_EXAMPLE)
    assert loaded.place("passes[0]") == "c.yaml:5:5"
    assert loaded.place("passes[2]") == "c.yaml:9:5"
    assert loaded.fault("passes[0].options.lm_head", "no") == "c.yaml:6:24: passes[0].options.lm_head: no"


def test_the_effective_text_loads_to_the_same() -> None:
    options = "options: {a: [1, [2.0, x]], b: {c: null, d: '1'}}"
    loaded = load(PASSES_EXAMPLE + f"  - {{name: z, before: y, {options}}}\n")
    again = load_text(loaded.text, Path("d.yaml"))
    assert again.config == loaded.config
    assert again.text == loaded.text
    assert again.config.passes[-1].options == {"a": (1, (2.0, "x")), "b": {"c": None, "d": "1"}}


def test_the_command_line_sets_the_list_whole() -> None:
    loaded = load(PASSES_EXAMPLE, "passes=[{name: fuse-residual, off: true}]")
    assert loaded.config.passes == (PassChange(name="fuse-residual", off=True),)
    assert loaded.place("passes[0]") == "--set passes=[{name: fuse-residual, off: true}]"
    assert load(PASSES_EXAMPLE, "passes=null").config.passes == ()


OWN_RUN = "below clear: true every entry is a run of its own, in the order written; remove it"
NO_PASS = "says no pass; write name: with one that `vamc-py passes` lists, or file: with path.py:Class"


@pytest.mark.parametrize(
    ("passes", "expected"),
    [
        ("passes: {name: x}\n", ["4:1: passes: must be a list such as [1, 2], not a mapping"]),
        (
            "passes:\n  - simplify\n  -\n",
            [
                "5:5: passes[0]: must be a mapping (its keys indented below it), not the text 'simplify'",
                "6:4: passes[1]: must be a mapping (its keys indented below it), not empty",
            ],
        ),
        ("passes:\n  - nmae: x\n", ["5:5: passes[0].nmae: unknown key; did you mean name?"]),
        (
            "passes:\n  - off: true\n",
            [f"5:5: passes[0]: {NO_PASS}"],
        ),
        (
            "passes:\n  - {name: x, file: y.py:Z}\n",
            ["5:21: passes[0].file: the pass is said by name already; keep one of the two"],
        ),
        (
            "passes:\n  - file: my_pass.py\n",
            ["5:11: passes[0].file: must be a file and a class in it, such as my_pass.py:MyPass"],
        ),
        (
            "passes:\n  - {name: x, off: true, options: {}, after: y}\n",
            [
                "5:26: passes[0].options: a pass that is off has no such key; remove it",
                "5:39: passes[0].after: a pass that is off has no such key; remove it",
            ],
        ),
        (
            "passes:\n  - {name: x, after: y, before: z}\n",
            ["5:33: passes[0].before: the place is said by after already; keep one of the two"],
        ),
        ("passes:\n  - clear: false\n", ["5:12: passes[0].clear: false changes nothing; remove the entry"]),
        (
            "passes:\n  - {name: x, options: {}}\n  - clear: true\n",
            ["6:12: passes[1].clear: the entries above it would change nothing; make it the first"],
        ),
        (
            "passes:\n  - {clear: true, name: x}\n",
            ["5:19: passes[0].name: clear stands in an entry of its own; remove it"],
        ),
        (
            "passes:\n  - clear: true\n  - {name: x, after: y}\n  - {name: x, again: true}\n",
            [
                f"6:15: passes[1].after: {OWN_RUN}",
                f"7:15: passes[2].again: {OWN_RUN}",
            ],
        ),
        (
            "passes:\n  - {name: 3, again: 1, options: [1]}\n",
            [
                "5:12: passes[0].name: must be text, not the number 3; put it in quotes if it is meant as text",
                "5:22: passes[0].again: must be true or false, not the number 1",
                "5:34: passes[0].options: must be a mapping (its keys indented below it), not a list",
            ],
        ),
    ],
)  # fmt: skip
def test_faults(passes: str, expected: list[str]) -> None:
    assert faults(passes) == [f"c.yaml:{line}" for line in expected]


_VALUES = st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["", "simplify", "a.py:B"]) | st.just({})
_ENTRIES = st.dictionaries(st.sampled_from([*PassChange.model_fields, "nmae"]), _VALUES) | _VALUES


@given(st.lists(_ENTRIES, max_size=4))
@settings(deadline=None, max_examples=150)
def test_any_list_loads_or_is_refused_with_a_place(entries: list[object]) -> None:
    refused: list[str] = []
    try:
        loaded = load(yaml.safe_dump({"passes": entries}))
    except ConfigError as error:
        refused = error.faults
    assert all(fault.startswith("c.yaml:") and ": passes" in fault for fault in refused), refused
    if not refused:
        assert load_text(loaded.text, Path("c.yaml")).config == loaded.config
