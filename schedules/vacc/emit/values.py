"""What lies between operators while a stage is written."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vamc_py.schedules.vacc.emit.stage import At, Buffer, Ddr, Place


@dataclass(frozen=True)
class Value:
    """A matrix [rows, columns], row-major and without gaps, in SSRAM or DDR."""

    rows: int
    columns: int
    dtype: str
    place: Place
    scales: Value | None = None
    """float32 [rows, groups] of int8 values."""

    @property
    def resident(self) -> bool:
        """Whether it is in SSRAM."""
        return isinstance(self.place, Buffer) and self.place.memory == "ssram"

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return int(np.dtype(self.dtype).itemsize)

    def block(self, row: int, rows: int) -> At:
        """Whole rows."""
        width = self.columns * self.itemsize
        return At(self.place, row * width, rows * width)

    def window(self, row: int, rows: int, column: int, columns: int) -> At:
        """Some columns of some rows."""
        size, width = self.itemsize, self.columns * self.itemsize
        start = row * width + column * size
        if columns == self.columns or rows == 1:
            return At(self.place, start, rows * columns * size)
        return At(self.place, start, columns * size, rows, width)


@dataclass(frozen=True)
class Parameter:
    """A weight, scale, norm or table in DDR, packed as the emitters of its users want it."""

    place: Ddr
    dtype: str
    shape: tuple[int, ...]
    """As packed."""
