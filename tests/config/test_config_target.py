"""``backend.target``: the CPU that a module is for."""

from __future__ import annotations

from pathlib import Path

import pytest

from vamc_py.config import load_text
from vamc_py.config.cpus import CPUS
from vamc_py.errors import ConfigError

TEXT = """\
name: small
frontend:
  checkpoint: models/small
  type: huggingface
  shape:
    input_ids: [[512], [2048]]
backend:
  type: tvm_llvm
  dtype: int8
  target: {target}
"""


@pytest.mark.parametrize("name", ["native", *CPUS])
def test_names_are_taken(name: str) -> None:
    assert load_text(TEXT.format(target=name), Path("c.yaml")).config.backend.target == name


def test_this_machine_is_the_default() -> None:
    text = TEXT.replace("  target: {target}\n", "")
    assert load_text(text, Path("c.yaml")).config.backend.target == "native"


@pytest.mark.parametrize(
    ("name", "ending"),
    [("zen4", "; did you mean znver4?"), ("x86-64-v2", "; did you mean x86-64-v4?"), ("nehalem", ", znver5")],
)
def test_other_names_are_one_sentence_at_their_place(name: str, ending: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_text(TEXT.format(target=name), Path("c.yaml"))
    (fault,) = caught.value.faults
    assert fault.startswith(
        f"c.yaml:10:11: backend.target: {name!r} is no CPU with AVX2, FMA and F16C that this version knows; known are "
        "native, x86-64-v3, x86-64-v4, haswell, "
    )
    assert fault.endswith(ending)


def test_an_override_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        load_text(TEXT.format(target="znver4"), Path("c.yaml"), ["backend.target=znver9"])
    assert caught.value.faults[0].startswith("--set backend.target=znver9: backend.target: 'znver9' is no CPU")


def test_other_kinds_of_values_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"backend\.target: must be text, not the number 4"):
        load_text(TEXT.format(target="4"), Path("c.yaml"))


def test_it_is_used_on_llvm_alone() -> None:
    loaded = load_text(TEXT.format(target="znver4").replace("tvm_llvm", "tvm_vacc"), Path("c.yaml"))
    assert any("backend.target" in notice for notice in loaded.notices)
