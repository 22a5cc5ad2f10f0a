"""What the parameter plan reads: a checkpoint's tensors, those that come quantized both dequantized and as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from vamc_py.checkpoint.base import Checkpoint
from vamc_py.weights.formats import SCALE, ZERO

VALUES = ".values"
"""What is put behind a quantized weight's name for its values; the name itself is the dequantized weight, float32."""


class PlanSource:
    """A checkpoint for ``weights.execute``: ``shapes`` by name, ``read`` by rows."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        shapes = {name: info.shape for name, info in checkpoint.tensors.items()}
        values = {name + VALUES: shapes[name] for name in checkpoint.quantized}
        self.shapes: Mapping[str, tuple[int, ...]] = {**shapes, **values}

    def read(self, name: str, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]:
        """Rows [start, stop) of a tensor; of a weight that comes quantized, dequantized float32 [rows, K]."""
        read, stem = self._checkpoint.read, name.removesuffix(VALUES)
        if stem != name and stem in self._checkpoint.quantized:
            return read(stem, start, stop)
        form = self._checkpoint.quantized.get(name)
        if form is None:
            return read(name, start, stop)
        zero = read(name + ZERO, start, stop) if form.zeros else None
        return np.ascontiguousarray(form.dequantize(read(name, start, stop), read(name + SCALE, start, stop), zero))
