"""What numpy computes for the check, and what is compiled once for all shapes, is what TVM computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.checks import interpreter
from tvm import relax

from vamc_py.check.interpreter import Interpreter
from vamc_py.check.numpy_operators import numpy_operator
from vamc_py.check.operators import Operators, tensors_read
from vamc_py.check.row_operators import row_call
from vamc_py.check.values import Result, Value, as_argument, from_tvm, tensors_of

OPS = relax.op


def normalized(call: Any) -> Any:
    return relax.BlockBuilder().normalize(call)


def variable(name: str, *shape: int, dtype: str = "float32") -> Any:
    return relax.Var(name, relax.TensorType(list(shape), dtype))


X, Y, W = variable("x", 1, 5, 6), variable("y", 1, 5, 6), variable("w", 4, 6)
MOVES = {
    "matmul": OPS.matmul(X, variable("v", 6, 4), out_dtype="float32"),
    "batched matmul": OPS.matmul(variable("a", 1, 2, 3, 4), variable("b", 1, 2, 4, 3), out_dtype="float32"),
    "16-bit matmul": OPS.matmul(
        variable("a", 3, 4, dtype="float16"), variable("b", 4, 2, dtype="float16"), out_dtype="float32"
    ),
    "permute": OPS.permute_dims(variable("a", 2, 3, 4), [2, 0, 1]),
    "transpose": OPS.permute_dims(W),
    "reshape": OPS.reshape(X, [5, 2, 3]),
    "expand": OPS.expand_dims(W, [1]),
    "squeeze": OPS.squeeze(X, [0]),
    "concat": OPS.concat([X, Y], axis=-1),
    "broadcast": OPS.broadcast_to(variable("a", 1, 6), [5, 6]),
    "slice": OPS.strided_slice(X, axes=[1, 2], begin=[1, 0], end=[4, 6], strides=[1, 2]),
    "last": OPS.strided_slice(X, axes=[1], begin=[4], end=[5], assume_inbound=True),
    "open end": OPS.strided_slice(X, axes=[2], begin=[3], end=[2**63 - 1]),
    "from the end": OPS.strided_slice(X, axes=[1], begin=[-1], end=[2**63 - 1]),
    "take": OPS.take(W, variable("i", 7, dtype="int32"), axis=0, mode="fast"),
    "repeat": OPS.repeat(variable("a", 1, 2, 3), 2, axis=1),
    "cast down": OPS.astype(X, "float16"),
    "cast up": OPS.astype(variable("a", 3, 4, dtype="int8"), "float32"),
    "add": OPS.add(X, variable("a", 6)),
    "subtract": OPS.subtract(X, Y),
    "multiply": OPS.multiply(X, relax.const(3.0, "float32")),
    "divide": OPS.divide(X, Y),
    "negative": OPS.negative(X),
}
ROWS = {
    "power": OPS.power(X, relax.const(2.0, "float32")),
    "rsqrt": OPS.rsqrt(OPS.abs(X).args[0]),
    "cos": OPS.cos(X),
    "silu": OPS.nn.silu(X),
    "sigmoid": OPS.sigmoid(X),
    "maximum": OPS.maximum(X, Y),
    "softmax": OPS.nn.softmax(X, axis=-1),
    "last axis by number": OPS.nn.softmax(X, axis=2),
    "mean": OPS.mean(X, axis=[-1], keepdims=True),
    "sum without the axis": OPS.sum(X, axis=[2]),
}
NO_ROWS = {
    "softmax over another axis": OPS.nn.softmax(X, axis=1),
    "mean of all": OPS.mean(X),
    "broadcast": OPS.power(X, variable("a", 6)),
}


def values_for(call: Any) -> list[Value]:
    random = np.random.default_rng(0)
    values = []
    for read in tensors_read(call):
        shape = [int(d) for d in read.ty.shape]
        dtype = str(read.ty.dtype)
        drawn = random.integers(0, 4, shape) if dtype.startswith("int") else random.random(shape) + 0.1
        constant = getattr(read, "value", None)
        values.append(Value(np.asarray(drawn).astype(dtype) if constant is None else constant.numpy()))
    return values


def by_tvm(call: Any, values: list[Value]) -> np.ndarray[Any, Any]:
    compiled = Operators(operators().target)._compile_call(call)
    result: Result = from_tvm(compiled(*(as_argument(value) for value in values)))
    return tensors_of(result)[0].array


def operators() -> Operators:
    one: Interpreter = interpreter()
    return one._operators


@pytest.mark.parametrize("name", MOVES)
def test_numpy_computes_what_tvm_computes(name: str) -> None:
    call = normalized(MOVES[name])
    values = values_for(call)
    got = numpy_operator(call.op.name, call, values)
    assert got is not None
    want = by_tvm(call, values)
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("name", ROWS)
def test_one_compiled_operator_serves_all_shapes(name: str) -> None:
    call = normalized(ROWS[name])
    assert row_call(call) is not None
    values = values_for(call)
    want = by_tvm(call, values)
    [got] = tensors_of(operators().run(call, values))
    assert got.array.shape == want.shape
    np.testing.assert_allclose(got.array, want, rtol=1e-6)


@pytest.mark.parametrize("name", NO_ROWS)
def test_other_axes_are_left_to_tvm(name: str) -> None:
    call = normalized(NO_ROWS[name])
    assert row_call(call) is None
    values = values_for(call)
    [got] = tensors_of(operators().run(call, values))
    np.testing.assert_allclose(got.array, by_tvm(call, values), rtol=1e-6)


def test_what_numpy_would_round_differently_is_left_to_tvm() -> None:
    half = variable("h", 3, dtype="float16")
    for call in (OPS.add(half, half), OPS.add(variable("i", 3, dtype="int32"), variable("j", 3, dtype="int32"))):
        call = normalized(call)
        assert numpy_operator(call.op.name, call, values_for(call)) is None


def test_an_index_out_of_range_is_an_error() -> None:
    call = normalized(MOVES["take"])
    table, ids = values_for(call)
    with pytest.raises(IndexError):
        numpy_operator("relax.take", call, [table, Value(ids.array + 9)])
