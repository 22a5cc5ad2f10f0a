"""Collectives of one rank, their refusals, and the slices of a table that ranks look up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.relax_modules import Compiled
from tvm import relax, tirx

from vamc_py import dialect
from vamc_py.pipeline.program import Program
from vamc_py.weights.plan import ParameterPlan

N = tirx.Var("n", "int64")
ROWS = ((N, 8), "float32")


def program(build: Callable[..., Any], *kinds: tuple[Sequence[Any], str]) -> Program:
    """``main`` over parameters of these shapes and types."""
    parameters = [relax.Var(f"x{i}", relax.TensorType(list(shape), dtype)) for i, (shape, dtype) in enumerate(kinds)]
    builder = relax.BlockBuilder()
    with builder.function("main", parameters):
        with builder.dataflow():
            output = builder.emit_output(builder.emit(build(*parameters)))
        builder.emit_func_output(output)
    return Program(builder.get(), ParameterPlan())


def test_collectives_of_one_rank() -> None:
    x, y = np.random.default_rng(0).standard_normal((2, 3, 8), dtype=np.float32)
    [alone] = Compiled(program(lambda x: dialect.all_reduce(x, ranks=1), ROWS))(x)
    np.testing.assert_array_equal(alone, x)
    [added] = Compiled(program(lambda *x: dialect.all_reduce(*x, ranks=1), ROWS, ROWS))(x, y)
    np.testing.assert_array_equal(added, x + y)
    [gathered] = Compiled(program(lambda x: dialect.all_gather(x, ranks=1), ROWS))(x)
    np.testing.assert_array_equal(gathered, x)
    [first] = Compiled(program(lambda x: dialect.all_gather(x, ranks=1, columns=5), ROWS))(x)
    np.testing.assert_array_equal(first, x[:, :5])


@pytest.mark.parametrize("collective", [dialect.all_reduce, dialect.all_gather])
def test_more_ranks_have_no_reference(collective: Any) -> None:
    name = collective.__name__
    with pytest.raises(ValueError, match=f"R.vamc.{name} of 4 ranks runs on a device with 4 dies only"):
        Compiled(program(lambda x: collective(x, ranks=4), ROWS))


@pytest.mark.parametrize("collective", [dialect.all_reduce, dialect.all_gather])
def test_fewer_ranks_than_one_are_refused(collective: Any) -> None:
    with pytest.raises(ValueError, match="one rank or more, not 0"):
        program(lambda x: collective(x, ranks=0), ROWS)


def test_two_residuals_are_refused() -> None:
    with pytest.raises(ValueError, match="adds one residual, not 2"):
        program(lambda x: dialect.all_reduce(x, x, x, ranks=2), ROWS)


@pytest.mark.parametrize("columns", [0, 17])
def test_other_columns_than_there_are_cannot_be_gathered(columns: int) -> None:
    with pytest.raises(Exception, match=f"all_gather of 16 columns gives no {columns}"):
        program(lambda x: dialect.all_gather(x, ranks=2, columns=columns), ROWS)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@settings(max_examples=15, deadline=None)
@given(ids=st.lists(st.integers(0, 40), max_size=9), first=st.sampled_from([0, 7, 14, 200]))
def test_a_slice_of_a_table_gives_zeros_for_what_others_have(dtype: str, ids: list[int], first: int) -> None:
    rng = np.random.default_rng(1)
    table = (rng.standard_normal((7, 6)) * 40).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    scale = [rng.random(7, np.float32)] * (dtype == "int8")
    [got] = _lookup(dtype, first)(np.array(ids, np.int32), table, *scale)
    floats = table.astype(np.float32) * (scale[0][:, None] if scale else 1)
    want = [floats[i - first] if first <= i < first + 7 else np.zeros(6) for i in ids]
    np.testing.assert_array_equal(got, np.array(want, np.float32).reshape(len(ids), 6))


@cache
def _lookup(dtype: str, first: int) -> Compiled:
    kinds = [((N,), "int32"), ((7, 6), dtype), *[((7,), "float32")] * (dtype == "int8")]
    return Compiled(program(lambda *x: dialect.embedding(*x, first=first), *kinds))
