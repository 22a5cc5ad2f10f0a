"""Rows of packed tables by id, in all weight types, with row counts on both sides of the threads' threshold."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from support.run_kernel import compile_kernel

from vamc_py.schedules.llvm.embedding import embedding
from vamc_py.schedules.llvm.layout import pack_rows

FLOATS = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32}


def ids_of(vocab: int, n: int) -> np.ndarray[Any, Any]:
    ids = np.random.default_rng(n).integers(0, vocab, n).astype(np.int32)
    ids[: min(n, 2)] = [0, vocab - 1][: min(n, 2)]
    return ids


@pytest.mark.parametrize(("vocab", "hidden"), [(200, 64), (67, 39), (64, 3)])
def test_int8_rows_are_scaled(vocab: int, hidden: int) -> None:
    rng = np.random.default_rng(0)
    table = rng.integers(-128, 128, (vocab, hidden)).astype(np.int8)
    scale = rng.uniform(0.01, 0.1, vocab).astype(np.float32)
    kernel = compile_kernel(embedding(vocab, hidden, "int8"))
    for n in (0, 1, 3, 50):
        ids, y = ids_of(vocab, n), np.full((n, hidden), np.nan, np.float32)
        kernel(ids, pack_rows(table), scale, y)
        assert np.array_equal(y, table[ids].astype(np.float32) * scale[ids, None])


@pytest.mark.parametrize("weight_type", list(FLOATS))
@pytest.mark.parametrize(("vocab", "hidden"), [(200, 64), (67, 39)])
def test_float_rows_are_exact(weight_type: Any, vocab: int, hidden: int) -> None:
    table = np.random.default_rng(0).standard_normal((vocab, hidden)).astype(FLOATS[weight_type])
    kernel = compile_kernel(embedding(vocab, hidden, weight_type))
    for n in (0, 1, 3, 50):
        ids, y = ids_of(vocab, n), np.full((n, hidden), np.nan, np.float32)
        kernel(ids, pack_rows(table), y)
        assert np.array_equal(y, table[ids].astype(np.float32))
