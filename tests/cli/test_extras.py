"""Compiling without the compiler's packages is a sentence, not a traceback."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from vamc_py import extras
from vamc_py.errors import UserError


def test_names_the_missing_packages_and_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name in ("torch", "gguf") else object())
    with pytest.raises(UserError, match=r"needs torch, gguf, .*vamc-py\[compile\]"):
        extras.require_compiler()


def test_the_development_environment_has_them() -> None:
    extras.require_compiler()


def test_they_are_the_extra_of_the_package() -> None:
    settings = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    wanted = settings["project"]["optional-dependencies"]["compile"]
    for name in extras._COMPILE:
        assert any(requirement.startswith(name.replace("_", "-")) for requirement in wanted)
