"""How weight matrices lie in memory for the llvm kernels: panels of 64 rows (output features), packed for vector loads.

int8 (stored as uint8 w + 128, the unsigned operand of vpdpbusd; 128 is zero and fills the padding):
    [ceil(N/64)][ceil(K/4)][4][16][4]   panel, group of four columns, vector, row in vector, column in group
float16, bfloat16 (its bits as uint16), float32, padded with zeros:
    [ceil(N/64)][K][64]                 panel, column, row in panel

A panel is contiguous, and a kernel reads it once from front to end. The embedding reads the same tables row-wise.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

import ml_dtypes
import numpy as np

WeightType: TypeAlias = Literal["int8", "float16", "bfloat16", "float32"]

PANEL = 64
QUAD = 4
LANES = 16
ZERO_POINT = 128

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_PACKED = {"int8": "uint8", "float16": "float16", "bfloat16": "uint16", "float32": "float32"}
_NUMPY = {"int8": np.int8, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32}


def packed_dtype(dtype: str) -> str:
    """The element type in memory of a packed weight of `dtype` (int8, float16, bfloat16 or float32)."""
    if dtype not in _PACKED:
        known = ", ".join(get_args(WeightType))
        raise ValueError(f"no packed layout for weights of type {dtype}; there is one for {known}")
    return _PACKED[dtype]


def packed_shape(rows: int, columns: int, dtype: str) -> tuple[int, ...]:
    """The shape in memory of a packed weight [rows, columns] of `dtype`."""
    panels = -(-rows // PANEL)
    if packed_dtype(dtype) == "uint8":
        return panels, -(-columns // QUAD), PANEL // LANES, LANES, QUAD
    return panels, columns, PANEL


def pack_rows(block: Array) -> Array:
    """Pack a block of whole rows [R, K] into [ceil(R/64), …] (see the module); blocks of 64·i rows go one by one, too.

    `block` is int8, float16, bfloat16 (ml_dtypes) or float32; the result is C contiguous, of `packed_dtype`.
    """
    rows, columns = block.shape
    dtype = block.dtype.name
    shape = packed_shape(rows, columns, dtype)
    if dtype == "int8":
        padded = np.full((shape[0] * PANEL, shape[1] * QUAD), ZERO_POINT, np.uint8)
        padded[:rows, :columns] = block.view(np.uint8) ^ np.uint8(ZERO_POINT)  # w + 128 without leaving eight bits
        return np.ascontiguousarray(padded.reshape(shape[0], 4, LANES, shape[1], QUAD).transpose(0, 3, 1, 2, 4))
    bits = block.view(np.uint16) if dtype == "bfloat16" else block
    padded = np.zeros((shape[0] * PANEL, columns), bits.dtype)
    padded[:rows] = bits
    return np.ascontiguousarray(padded.reshape(shape[0], PANEL, columns).transpose(0, 2, 1))


def unpack_rows(packed: Array, rows: int, columns: int, dtype: str) -> Array:
    """The inverse of `pack_rows`: [rows, columns] of `dtype` from packed panels."""
    stored, shape = packed_dtype(dtype), packed_shape(rows, columns, dtype)
    if packed.dtype.name != stored or packed.shape != shape:
        raise ValueError(
            f"a packed {dtype} weight [{rows}, {columns}] is {stored} {shape}, not {packed.dtype.name} {packed.shape}"
        )
    if dtype == "int8":
        flat = packed.transpose(0, 2, 3, 1, 4).reshape(packed.shape[0] * PANEL, -1)[:rows, :columns]
        return (flat ^ np.uint8(ZERO_POINT)).view(np.int8)
    flat = packed.transpose(0, 2, 1).reshape(-1, columns)[:rows]
    return np.ascontiguousarray(flat).view(_NUMPY[dtype])
