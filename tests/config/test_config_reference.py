"""docs/yaml_reference.md is what the models say, and the models say something about every key."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from vamc_py.config import Config
from vamc_py.config.reference import reference
from vamc_py.config.section import TARGETS, all_keys, targets_of

PAGE = Path(__file__).parents[2] / "docs" / "yaml_reference.md"


def test_committed_page_is_the_generated_one() -> None:
    again = "run: python -m vamc_py.config.reference > docs/yaml_reference.md"
    assert PAGE.read_text(encoding="utf-8") == reference(), again


def test_module_prints_the_page() -> None:
    printed = subprocess.run([sys.executable, "-m", "vamc_py.config.reference"], capture_output=True, check=True)
    assert printed.stdout.decode() == reference()


def test_every_key_has_a_meaning_and_known_targets() -> None:
    for path, field in all_keys(Config):
        assert field.description, path
        assert set(targets_of(field)) <= set(TARGETS), path


def test_a_section_that_a_target_ignores_has_no_key_that_it_uses() -> None:
    page = reference()
    compile_section = page.split("## `backend.compile`")[1].split("## ")[0]
    rows = [line for line in compile_section.splitlines() if line.startswith("| `")]
    assert rows
    assert all(line.endswith("| none |") for line in rows)
