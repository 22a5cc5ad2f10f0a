"""100 damaged checkpoints: each opens and reads, or is refused with a CheckpointError; nothing else ever happens."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.checkpoints import tensor_shapes
from support.damage import CASES, PERHAPS, Damage, apply, write_clean

from vamc_py.checkpoint import check_tensors, open_checkpoint
from vamc_py.errors import CheckpointError


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, tuple[int, ...]]]:
    folder = tmp_path_factory.mktemp("clean")
    return folder, tensor_shapes(write_clean(folder))


def _use(location: Path, kind: str, shapes: dict[str, tuple[int, ...]], out: Path) -> None:
    """Everything that the compiler asks of a checkpoint."""
    checkpoint = open_checkpoint(str(location), kind)
    check_tensors(checkpoint, shapes)
    for name, shape in shapes.items():
        assert checkpoint.read(name).shape == shape
    checkpoint.fingerprint()
    checkpoint.save_tokenizer(out)


def test_there_are_a_hundred() -> None:
    assert len(CASES) == 100


@pytest.mark.parametrize(("damage", "seed"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_damage_is_refused_or_harmless(
    clean: tuple[Path, dict[str, tuple[int, ...]]], tmp_path: Path, damage: Damage, seed: int
) -> None:
    folder = shutil.copytree(clean[0], tmp_path / "model")
    out = tmp_path / "out"
    out.mkdir()
    location, kind = apply(damage, seed, folder)
    try:
        _use(location, kind, clean[1], out)
        refusal = None
    except CheckpointError as error:
        refusal = str(error)
    if refusal is None:
        assert damage in PERHAPS
    else:
        assert str(folder) in refusal
