"""A checkpoint's weights in float32, those that come quantized as what they mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from vamc_py.checkpoint import Checkpoint
from vamc_py.errors import CheckpointError
from vamc_py.weights.formats import SCALE, ZERO, Floats


def float_rows(
    checkpoint: Checkpoint,
    name: str,
    start: int = 0,
    stop: int | None = None,
    chosen: npt.NDArray[np.intp] | None = None,
) -> Floats:
    """Rows [start, stop) of a tensor, of these the ``chosen`` ones, as float32 in memory of their own.

    CheckpointError for values that are no numbers.
    """

    def read(tensor: str) -> Any:
        rows = checkpoint.read(tensor, start, stop)
        return rows if chosen is None else rows[chosen]

    form = checkpoint.quantized.get(name)
    if form is None:
        values: Floats = np.array(read(name), dtype=np.float32)
    else:
        values = form.dequantize(read(name), read(name + SCALE), read(name + ZERO) if form.zeros else None)
    if not np.isfinite(values).all():
        raise CheckpointError(f"{checkpoint.file_of(name)}: {name} has values that are no numbers; fetch it again")
    return values
