"""pyproject.toml's package list and the links are those of the tree."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.building import LINKED_PACKAGES
from support.project_tree import ROOT, module_name, project_settings, source_modules


def test_every_folder_of_modules_is_a_listed_package() -> None:
    folders = {path.parent for path in source_modules()}
    listed = project_settings()["tool"]["setuptools"]["packages"]
    assert listed == sorted(module_name(folder / "__init__.py") for folder in folders)
    assert [folder for folder in folders if not (ROOT / folder / "__init__.py").is_file()] == []


@pytest.mark.parametrize("name", LINKED_PACKAGES)
def test_links_stand_beside_the_mapping(name: str) -> None:
    assert (ROOT / "vamc_py" / name).readlink() == Path("..") / name
    assert project_settings()["tool"]["setuptools"]["package-dir"][f"vamc_py.{name}"] == name
