"""In which numbers a weight matrix is kept: integers or float8 with scales for rows or for groups of columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Values = Literal["int8", "int4", "float8_e4m3fn"]
Floats = NDArray[np.float32]

SCALE = ".scale"
ZERO = ".zero"
"""What is put behind a weight's name for the names of its scales and its zero points."""


@dataclass(frozen=True)
class WeightFormat:
    """How a weight [N, K] is kept: w[n, k] = (value[n, k] - zero[n, k // group]) * scale[n, k // group].

    Values are int8 [N, K] ("int4" ones from -8 to 7) or float8_e4m3fn [N, K]. Scales are [N, ceil(K / group)], or [N]
    where a row has one. The last group of a row may be shorter. Zero points, of integers only, are int8 and have the
    shape of the scales; without them they are 0.
    """

    values: Values
    group: int | None = None
    """Columns that share a scale; None: all of a row."""
    zeros: bool = False
    scale: Literal["float32", "float16"] = "float32"

    @property
    def bits(self) -> int:
        """Bits of a value."""
        return 4 if self.values == "int4" else 8

    @property
    def dtype(self) -> str:
        """The numpy type of the values; four bits take a byte each until they are packed."""
        return "float8_e4m3fn" if self.values == "float8_e4m3fn" else "int8"

    def groups(self, columns: int) -> int:
        """Scales of a row of `columns`."""
        return 1 if self.group is None else -(-columns // self.group)

    def scale_shape(self, rows: int, columns: int) -> tuple[int, ...]:
        """The shape of the scales, and of the zero points, of a weight [rows, columns]."""
        return (rows,) if self.group is None else (rows, self.groups(columns))

    def dequantize(self, values: NDArray[np.generic], scale: NDArray[np.generic], zero: object = None) -> Floats:
        """The weight in float32 [N, K], every step rounded once to float32."""
        rows, columns = values.shape

        def spread(part: object) -> Floats:
            by_group = np.asarray(part, dtype=np.float32).reshape(rows, -1)
            return by_group if self.group is None else np.repeat(by_group, self.group, axis=1)[:, :columns]

        weight = values.astype(np.float32)
        if zero is not None:
            weight = weight - spread(zero)
        return weight * spread(scale)
