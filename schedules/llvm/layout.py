"""How weight matrices lie in memory for the llvm kernels: panels of 64 rows (output features), packed for vector loads.

int8 (stored as uint8 w + 128, the unsigned operand of vpdpbusd; 128 is zero and fills the padding):
    [ceil(N/64)][ceil(K/4)][4][16][4]   panel, group of four columns, vector, row in vector, column in group
int4 (two values w + 8 in a byte; 8 is zero and fills the padding):
    [ceil(N/64)][ceil(K/8)][4][16][4]   panel, eight columns, vector, row in vector, column i in the low half of a byte
                                        and column i + 4 in the high one
float16, bfloat16 (its bits as uint16), float32, float8_e4m3fn (its bits as uint8), padded with zeros:
    [ceil(N/64)][K][64]                 panel, column, row in panel
scales and zero points of groups [N, G], padded with zeros:
    [ceil(N/64)][G][64]                 panel, group, row in panel

A panel is contiguous, and a kernel reads it once from front to end. The embedding reads the same tables row-wise.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

import ml_dtypes
import numpy as np

WeightType: TypeAlias = Literal["int8", "int4", "float8_e4m3fn", "float16", "bfloat16", "float32"]

PANEL = 64
QUAD = 4
LANES = 16
OCTET = 8
ZERO_POINT = 128
ZERO_POINT_4 = 8

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_PACKED = {
    "int8": "uint8", "int4": "uint8", "float8_e4m3fn": "uint8",
    "float16": "float16", "bfloat16": "uint16", "float32": "float32",
}  # fmt: skip
_NUMPY = {
    "int8": np.int8, "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32,
}  # fmt: skip


def packed_dtype(dtype: str) -> str:
    """The element type in memory of a packed weight of `dtype` (a `WeightType`)."""
    if dtype not in _PACKED:
        known = ", ".join(get_args(WeightType))
        raise ValueError(f"no packed layout for weights of type {dtype}; there is one for {known}")
    return _PACKED[dtype]


def packed_shape(rows: int, columns: int, dtype: str) -> tuple[int, ...]:
    """The shape in memory of a packed weight [rows, columns] of `dtype`."""
    panels = -(-rows // PANEL)
    packed_dtype(dtype)
    if dtype in ("int8", "int4"):
        return panels, -(-columns // (QUAD if dtype == "int8" else OCTET)), PANEL // LANES, LANES, QUAD
    return panels, columns, PANEL


def pack_rows(block: Array) -> Array:
    """Pack a block of whole rows [R, K] into [ceil(R/64), …] (see the module); blocks of 64·i rows go one by one, too.

    `block` is int8, float16, bfloat16, float8_e4m3fn (both of ml_dtypes) or float32; the result is C contiguous, of
    `packed_dtype`.
    """
    rows, columns = block.shape
    dtype = block.dtype.name
    shape = packed_shape(rows, columns, dtype)
    if dtype == "int8":
        padded = np.full((shape[0] * PANEL, shape[1] * QUAD), ZERO_POINT, np.uint8)
        padded[:rows, :columns] = block.view(np.uint8) ^ np.uint8(ZERO_POINT)  # w + 128 without leaving eight bits
        return _in_quads(padded)
    return pack_columns(block.view(packed_dtype(dtype)))


def pack_int4_rows(block: Array) -> Array:
    """Pack a block of whole rows int8 [R, K] of values from -8 to 7, as `pack_rows` does: uint8 [ceil(R/64), …]."""
    rows, columns = block.shape
    shape = packed_shape(rows, columns, "int4")
    padded = np.full((shape[0] * PANEL, shape[1] * OCTET), ZERO_POINT_4, np.uint8)
    padded[:rows, :columns] = block.view(np.uint8) + np.uint8(ZERO_POINT_4)
    if padded.max(initial=0) > 15:
        raise ValueError(f"values of four bits are from -8 to 7, not {block.min()} to {block.max()}")
    octets = padded.reshape(-1, shape[1], 2, QUAD)
    return _in_quads((octets[:, :, 0] | octets[:, :, 1] << np.uint8(4)).reshape(-1, shape[1] * QUAD))


def pack_columns(block: Array) -> Array:
    """[R, C] -> [ceil(R/64), C, 64] of the same type: columns of panels, zeros below the last row."""
    rows, columns = block.shape
    padded = np.zeros((-(-rows // PANEL) * PANEL, columns), block.dtype)
    padded[:rows] = block
    return np.ascontiguousarray(padded.reshape(-1, PANEL, columns).transpose(0, 2, 1))


def _in_quads(padded: Array) -> Array:
    """[64 P, 4 Q] -> [P, Q, 4, 16, 4]."""
    panels = padded.shape[0] // PANEL
    return np.ascontiguousarray(padded.reshape(panels, PANEL // LANES, LANES, -1, QUAD).transpose(0, 3, 1, 2, 4))


def unpack_rows(packed: Array, rows: int, columns: int, dtype: str) -> Array:
    """The inverse of `pack_rows`: [rows, columns] of `dtype` from packed panels."""
    stored, shape = packed_dtype(dtype), packed_shape(rows, columns, dtype)
    if packed.dtype.name != stored or packed.shape != shape:
        raise ValueError(
            f"a packed {dtype} weight [{rows}, {columns}] is {stored} {shape}, not {packed.dtype.name} {packed.shape}"
        )
    if dtype in ("int8", "int4"):
        flat = packed.transpose(0, 2, 3, 1, 4)
        if dtype == "int4":
            flat = np.stack([flat & np.uint8(15), flat >> np.uint8(4)], axis=-2)
        flat = flat.reshape(packed.shape[0] * PANEL, -1)[:rows, :columns]
        return (flat ^ np.uint8(ZERO_POINT) if dtype == "int8" else flat - np.uint8(ZERO_POINT_4)).view(np.int8)
    flat = packed.transpose(0, 2, 1).reshape(-1, columns)[:rows]
    return np.ascontiguousarray(flat).view(_NUMPY[dtype])
