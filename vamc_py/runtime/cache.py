"""The KV cache: one page for each slot, memory given by the OS as sequences grow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from vamc_py.artifact.manifest import TensorSpec
from vamc_py.errors import ArtifactError, UserError
from vamc_py.runtime import memory

BLOCK = 16  # tokens; the caches' innermost grouping


def blocks_of(context: int) -> int:
    """Blocks in a page that holds ``context`` positions."""
    return -(-context // BLOCK)


def allocate(caches: Sequence[TensorSpec], *, slots: int, context: int) -> list[Any]:
    """TVM tensors of zeros for the caches of a function, in order.

    Their symbolic dimensions are "num_pages" (``slots`` of them) and "blocks" (of a page of ``context`` positions).
    Raises ArtifactError for another symbolic dimension, UserError where the OS refuses the memory.
    """
    extents = {"num_pages": slots, "blocks": blocks_of(context)}
    shapes = [_shape(spec, extents) for spec in caches]
    try:
        return [memory.tensor(memory.zeros(shape, spec.dtype)) for spec, shape in zip(caches, shapes, strict=True)]
    except (OSError, MemoryError, OverflowError) as error:
        total = sum(
            math.prod(shape) * np.dtype(spec.dtype).itemsize for spec, shape in zip(caches, shapes, strict=True)
        )
        raise UserError(
            f"the KV cache of {slots} slots with {context} positions takes {total / 1e9:.1f} GB, which this machine "
            f"refuses ({error}); choose fewer slots or a shorter context"
        ) from error


def _shape(spec: TensorSpec, extents: dict[str, int]) -> tuple[int, ...]:
    try:
        return tuple(extents[extent] if isinstance(extent, str) else extent for extent in spec.shape)
    except KeyError as error:
        raise ArtifactError(
            f"cache {spec.name}: symbolic dimension {error} is unknown to this runtime; compile the artifact again"
        ) from error
