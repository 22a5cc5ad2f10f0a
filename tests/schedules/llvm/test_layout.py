"""Packing is a permutation with padding: undone exactly, block by block as well as at once."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vamc_py.schedules.llvm.layout import PANEL, pack_rows, packed_dtype, packed_shape, unpack_rows

TYPES = {"int8": np.int8, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32}


def matrix(rows: int, columns: int, dtype: str, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).integers(-128, 128, (rows, columns))
    return values.astype(TYPES[dtype])


@given(rows=st.integers(1, 200), columns=st.integers(1, 70), dtype=st.sampled_from(list(TYPES)), seed=st.integers(0, 9))
def test_unpacking_gives_back_what_was_packed(rows: int, columns: int, dtype: str, seed: int) -> None:
    weight = matrix(rows, columns, dtype, seed)
    packed = pack_rows(weight)
    assert packed.shape == packed_shape(rows, columns, dtype)
    assert packed.dtype == packed_dtype(dtype)
    assert packed.flags.c_contiguous
    assert np.array_equal(unpack_rows(packed, rows, columns, dtype), weight)


@given(rows=st.integers(1, 300), block=st.integers(1, 3), dtype=st.sampled_from(list(TYPES)))
def test_blocks_of_rows_pack_to_the_same_bytes_as_the_whole(rows: int, block: int, dtype: str) -> None:
    weight = matrix(rows, 9, dtype)
    step = block * PANEL
    pieces = [pack_rows(weight[start : start + step]) for start in range(0, rows, step)]
    assert np.array_equal(np.concatenate(pieces), pack_rows(weight))


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
