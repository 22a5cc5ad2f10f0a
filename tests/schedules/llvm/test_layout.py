"""Packing is a permutation with padding: undone exactly, block by block as well as at once."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vamc_py.schedules.llvm.layout import (
    PANEL,
    pack_columns,
    pack_int4_rows,
    pack_rows,
    packed_dtype,
    packed_shape,
    unpack_rows,
)

TYPES = {
    "int8": np.int8, "int4": np.int8, "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32,
}  # fmt: skip


def matrix(rows: int, columns: int, dtype: str, seed: int = 0) -> np.ndarray:
    most = 8 if dtype == "int4" else 128
    values = np.random.default_rng(seed).integers(-most, most, (rows, columns))
    return values.astype(TYPES[dtype])


def packed_as(weight: np.ndarray, dtype: str) -> np.ndarray:
    return pack_int4_rows(weight) if dtype == "int4" else pack_rows(weight)


@given(rows=st.integers(1, 200), columns=st.integers(1, 70), dtype=st.sampled_from(list(TYPES)), seed=st.integers(0, 9))
def test_unpacking_gives_back_what_was_packed(rows: int, columns: int, dtype: str, seed: int) -> None:
    weight = matrix(rows, columns, dtype, seed)
    packed = packed_as(weight, dtype)
    assert packed.shape == packed_shape(rows, columns, dtype)
    assert packed.dtype == packed_dtype(dtype)
    assert packed.flags.c_contiguous
    assert np.array_equal(unpack_rows(packed, rows, columns, dtype), weight)


@given(rows=st.integers(1, 300), block=st.integers(1, 3), dtype=st.sampled_from(list(TYPES)))
def test_blocks_of_rows_pack_to_the_same_bytes_as_the_whole(rows: int, block: int, dtype: str) -> None:
    weight = matrix(rows, 9, dtype)
    step = block * PANEL
    pieces = [packed_as(weight[start : start + step], dtype) for start in range(0, rows, step)]
    assert np.array_equal(np.concatenate(pieces), packed_as(weight, dtype))


def test_int4_shares_bytes_between_columns_four_apart() -> None:
    weight = matrix(70, 11, "int4")
    packed = pack_int4_rows(weight)
    assert packed.shape == (2, 2, 4, 16, 4)
    low, high = int(weight[35, 2]) + 8, int(weight[35, 6]) + 8
    assert packed[0, 0, 2, 3, 2] == low | high << 4
    assert (packed[1, :, 1:] == 0x88).all()  # rows beyond the last are zeros
    assert (packed[0, 1, :, :, 3] == 0x88).all()  # columns beyond the last, too
    with pytest.raises(ValueError, match="values of four bits are from -8 to 7, not 0 to 8"):
        pack_int4_rows(np.array([[0, 8]], np.int8))


@given(rows=st.integers(1, 200), groups=st.integers(1, 9))
def test_scales_of_groups_lie_in_columns_of_panels(rows: int, groups: int) -> None:
    scale = np.random.default_rng(rows).standard_normal((rows, groups)).astype(np.float16)
    packed = pack_columns(scale)
    assert packed.shape == (-(-rows // PANEL), groups, PANEL)
    assert np.array_equal(packed.transpose(0, 2, 1).reshape(-1, groups)[:rows], scale)
    assert not packed.transpose(0, 2, 1).reshape(-1, groups)[rows:].any()


def test_int8_is_stored_with_an_offset_and_padded_with_its_zero() -> None:
    weight = matrix(70, 6, "int8")
    packed = pack_rows(weight)
    assert packed.shape == (2, 2, 4, 16, 4)
    assert packed[1, 1, 0, 5, 1] == weight[69, 5].astype(int) + 128
    assert packed[0, 0, 2, 3, 1] == weight[35, 1].astype(int) + 128
    assert (packed[1, :, 0, 6:] == 128).all()
    assert (packed[1, :, 1:] == 128).all()
    assert (packed[:, 1, :, :, 2:] == 128).all()


def test_floats_are_stored_column_by_column_and_padded_with_zeros() -> None:
    weight = matrix(70, 6, "float32")
    packed = pack_rows(weight)
    assert packed[1, 3, 5] == weight[69, 3]
    assert (packed[1, :, 6:] == 0).all()


def test_a_view_that_is_not_contiguous_packs_as_its_copy() -> None:
    weight = matrix(80, 40, "int8")[::2, 1::3]
    assert np.array_equal(pack_rows(weight), pack_rows(weight.copy()))


def test_other_types_and_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="no packed layout for weights of type int16"):
        packed_shape(1, 1, "int16")
    with pytest.raises(ValueError, match=r"a packed int8 weight \[64, 4\] is uint8 \(1, 1, 4, 16, 4\), not float32"):
        unpack_rows(np.zeros((1, 4, 64), np.float32), 64, 4, "int8")
