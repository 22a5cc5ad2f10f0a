"""mod.params of a die: its weights, packed, then the tables of its rotary embedding."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from vamc_py.artifact.manifest import PARAMETER_ALIGNMENT
from vamc_py.checkpoint import Checkpoint
from vamc_py.vacc.dies import Die
from vamc_py.weights.execute import Expected, write_parameters
from vamc_py.weights.source import PlanSource


def write_die_parameters(
    die: Die,
    checkpoint: Checkpoint,
    path: Path,
    context: int,
    progress: Callable[[Sequence[str]], Iterator[str]] = iter,
) -> None:
    """Writes mod.params, each parameter where the die's programs have it. CheckpointError for weights that are not
    finite."""
    tensors = {tensor.name: tensor for tensor in die.memory.tensors if tensor.role == "parameter"}
    expected = {name: Expected(tensors[name].shape, tensors[name].dtype) for name in die.plan}
    source = PlanSource(checkpoint)
    written, _ = write_parameters(die.plan, expected, source, source.shapes, path, progress)
    for one in written:
        assert one.offset == tensors[one.name].offset, f"{one.name} is not where the programs have it"
    with path.open("ab") as file:
        for name, angles in die.angles.items():
            for part, table in zip(("cosines", "sines"), angles.tables(context), strict=True):
                file.write(bytes(-file.tell() % PARAMETER_ALIGNMENT))
                assert file.tell() == tensors[f"{name}.{part}"].offset
                file.write(np.ascontiguousarray(table, np.float32).data)


def digest(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
