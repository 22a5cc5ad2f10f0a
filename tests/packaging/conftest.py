"""A wheel and an sdist, built once from a copy of the repository."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.building import build_sdist, build_wheel, copy_repository


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_repository(tmp_path_factory.mktemp("repository"))


@pytest.fixture(scope="session")
def sdist(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_sdist(repository, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="session")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(repository, tmp_path_factory.mktemp("wheel"))
