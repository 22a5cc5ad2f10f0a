"""Runs a parameter plan: block by block from the checkpoint into the parameter file; no whole weight is in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from vamc_py.artifact.manifest import PARAMETER_ALIGNMENT, Parameter
from vamc_py.errors import CheckpointError
from vamc_py.weights.plan import Array, ParameterPlan, Recipe, numpy_dtype

BLOCK_ELEMENTS = 4 << 20  # source elements in memory at a time: 16 MB in float32


class TensorSource(Protocol):
    """The part of a checkpoint that the plan reads."""

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Array: ...


@dataclass(frozen=True)
class Expected:
    """The type of a parameter in the compiled function."""

    shape: tuple[int, ...]
    dtype: str


def write_parameters(
    plan: ParameterPlan,
    expected: Mapping[str, Expected],
    source: TensorSource,
    shapes: Mapping[str, Sequence[int]],
    path: Path,
    progress: Callable[[Sequence[str]], Iterator[str]] = iter,
) -> tuple[list[Parameter], str]:
    """Writes every parameter of the plan, in its order, each at a multiple of PARAMETER_ALIGNMENT.

    ``shapes`` are the checkpoint's tensors. Returns the table of the manifest and the sha256 of the file.
    CheckpointError for weights that are not finite, or not representable in the type asked for.
    """
    table: list[Parameter] = []
    whole = hashlib.sha256()
    with path.open("wb") as file:
        for name in progress(list(plan)):
            _pad(file, whole)
            offset = file.tell()
            own = hashlib.sha256()
            for block in _blocks(plan[name], source, shapes, name):
                data = np.ascontiguousarray(block).reshape(-1).view(np.uint8).data
                file.write(data)
                own.update(data)
                whole.update(data)
            size = file.tell() - offset
            kind = expected[name]
            if size != int(np.prod(kind.shape, dtype=np.int64)) * numpy_dtype(kind.dtype).itemsize:
                raise ValueError(f"the plan made {size} bytes for {name}, the function expects {kind}")
            table.append(
                Parameter(
                    name=name, dtype=kind.dtype, shape=kind.shape, offset=offset, size=size, sha256=own.hexdigest()
                )
            )
    return table, whole.hexdigest()


def _pad(file: BinaryIO, whole: hashlib._Hash) -> None:
    padding = bytes(-file.tell() % PARAMETER_ALIGNMENT)
    file.write(padding)
    whole.update(padding)


def _blocks(recipe: Recipe, source: TensorSource, shapes: Mapping[str, Sequence[int]], name: str) -> Iterator[Array]:
    """The parameter's data in pieces of whole rows."""
    rows = _row_count(recipe, shapes)
    width = max(1, int(np.prod(shapes[recipe.sources[0]][1:], dtype=np.int64)))
    length = max(recipe.rows_multiple, BLOCK_ELEMENTS // width // recipe.rows_multiple * recipe.rows_multiple)
    for first in range(0, rows, length):
        yield made_rows(recipe, source, shapes, first, min(first + length, rows), name)


def made_rows(
    recipe: Recipe, source: TensorSource, shapes: Mapping[str, Sequence[int]], first: int, last: int, name: str
) -> Array:
    """What a recipe makes of the rows [first, last) of those that it chooses, or of its sources, one below the other.

    Both are multiples of the steps' ``rows_multiple``, or ``last`` is the end. ``name`` is the parameter's, for faults.
    """
    names = ", ".join(recipe.sources)
    if recipe.rows is None:
        block = stacked(_read(recipe, source, shapes, first, last))
        return _made(block, recipe, f"{names}: rows {first} to {last - 1}", name)
    pieces: list[Array] = []
    places: list[str] = []
    end = 0
    for part in recipe.rows:
        begin, end = end, end + len(part)
        start, stop = (min(part.start + max(at - begin, 0), part.stop) for at in (first, last))
        if start < stop:
            pieces += _read(recipe, source, shapes, start, stop)
            places.append(f"{start} to {stop - 1}")
        zeros = min(last, end) - max(first, end - part.zeros)
        if zeros > 0:
            [row] = _read(recipe, source, shapes, 0, 1)
            pieces.append(np.zeros((zeros, *row.shape[1:]), row.dtype))
    return _made(stacked(pieces), recipe, f"{names}: rows {' and '.join(places) or 'of zeros'}", name)


def _row_count(recipe: Recipe, shapes: Mapping[str, Sequence[int]]) -> int:
    """The rows before the steps. ValueError where the recipe chooses some that its sources do not have."""
    rows = sum(int(shapes[tensor][0]) for tensor in recipe.sources)
    if recipe.rows is None:
        return rows
    for part in recipe.rows:
        if part.stop > rows:
            raise ValueError(f"{', '.join(recipe.sources)} have {rows} rows, but the plan wants {part}")
    return sum(len(part) for part in recipe.rows)


def _read(
    recipe: Recipe, source: TensorSource, shapes: Mapping[str, Sequence[int]], first: int, last: int
) -> list[Array]:
    """The rows [first, last) of the sources as they stand one below the other, a piece for each source."""
    rows = [int(shapes[tensor][0]) for tensor in recipe.sources]
    starts = np.concatenate([[0], np.cumsum(rows)])
    return [
        source.read(tensor, max(first - int(start), 0), min(last - int(start), count))
        for tensor, start, count in zip(recipe.sources, starts, rows, strict=False)
        if start < last and first < start + count
    ]


def stacked(pieces: Sequence[Array]) -> Array:
    """The pieces below each other; in float32 where a checkpoint mixes types, which numpy does not know how to join."""
    if len({piece.dtype for piece in pieces}) > 1:
        pieces = [piece.astype(np.float32) for piece in pieces]
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def _made(block: Array, recipe: Recipe, place: str, name: str) -> Array:
    """The block after all steps. Each result is checked, not only the last: packed bfloat16 and int8 are integers."""
    _check_finite(block, place, name)
    for step in recipe.steps:
        before, block = block, step.apply(block)
        if block is not before:
            _check_finite(block, place, name)
    return block


def _check_finite(block: Array, place: str, name: str) -> None:
    if block.dtype.kind not in "iu" and not np.isfinite(block).all():
        raise CheckpointError(
            f"{place} hold values that are not finite in {block.dtype} (parameter {name}); "
            "use a checkpoint without them, or a wider backend.dtype"
        )
