"""How parameters lie in memory for the kernels of the device model: panels of 16 rows (output features).

values: float16, float32, int8, float8_e4m3fn (its bits as uint8), padded with zeros:
    [ceil(N/16)][K][16]             panel, column, row in panel
int4 (two values in a byte, in two's complement; an odd last column has a zero beside it):
    [ceil(N/16)][ceil(K/2)][16]     panel, two columns, row in panel; the even column in the lower half of the byte
scales and zero points of groups [N, G], padded with zeros:
    [ceil(N/16)][G][16]             panel, group, row in panel
scales and biases of rows [N], padded with zeros:
    [ceil(N/16) * 16]

A panel is contiguous. The K cache has the same form, with positions for rows: [kv heads][S/16][d][16].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from vamc_py.runstream.program import ROW_MAJOR_BLOCK as PANEL

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class PackVaccPanels:
    """The step of the parameter plan that lays rows out in panels of 16: weights, or scales and zero points of groups.

    Whole panels go one by one, too.
    """

    rows_multiple: int = PANEL

    def apply(self, block: Array) -> Array:
        """[R, C], or [R] for C = 1, -> [ceil(R/16), C, 16] of the same type, float8_e4m3fn as its bits."""
        block = block.reshape(len(block), -1)
        if block.dtype.name == "float8_e4m3fn":
            block = block.view(np.uint8)
        rows, columns = block.shape
        padded = np.zeros((-(-rows // PANEL) * PANEL, columns), block.dtype)
        padded[:rows] = block
        return np.ascontiguousarray(padded.reshape(-1, PANEL, columns).transpose(0, 2, 1))


@dataclass(frozen=True)
class PackVaccInt4Panels:
    """The step that lays rows of values of four bits out in panels of 16."""

    rows_multiple: int = PANEL

    def apply(self, block: Array) -> Array:
        """int8 [R, K], from -8 to 7 -> uint8 [ceil(R/16), ceil(K/2), 16]; ValueError for other values."""
        if block.size and not -8 <= block.min() <= block.max() <= 7:
            raise ValueError(f"values of four bits are from -8 to 7, not {block.min()} to {block.max()}")
        panels = PackVaccPanels().apply(block).view(np.uint8)
        if panels.shape[1] % 2:
            panels = np.concatenate([panels, np.zeros_like(panels[:, :1])], axis=1)
        return panels[:, 0::2] & np.uint8(15) | panels[:, 1::2] << np.uint8(4)


@dataclass(frozen=True)
class PadVaccRows:
    """The step that pads scales or biases of rows with zeros to whole panels."""

    rows_multiple: int = PANEL

    def apply(self, block: Array) -> Array:
        """[R] -> [ceil(R/16) * 16] of the same type."""
        return np.concatenate([block, np.zeros(-len(block) % PANEL, block.dtype)])


def panels_shape(rows: int, columns: int, int4: bool = False) -> tuple[int, int, int]:
    """The shape in memory of [rows, columns] in panels."""
    return -(-rows // PANEL), -(-columns // 2) if int4 else columns, PANEL


def unpack_panels(panels: Array, rows: int) -> Array:
    """The inverse of `PackVaccPanels` but for float8's bits: [P, C, 16] -> [rows, C]."""
    return np.ascontiguousarray(panels.transpose(0, 2, 1).reshape(-1, panels.shape[1])[:rows])
