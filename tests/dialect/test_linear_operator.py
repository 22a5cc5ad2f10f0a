"""R.vamc.linear with activations and prologues: the text form, and the reference against numpy written out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import ml_dtypes
import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from support.relax_modules import Compiled
from tvm import relax, tirx
from tvm.script import from_source

from vamc_py import dialect
from vamc_py.activation import Activation, columns_per_scale, default_wide_rows
from vamc_py.dialect import LinearCall
from vamc_py.pipeline.program import Program
from vamc_py.weights.plan import ParameterPlan

Array = np.ndarray[Any, Any]
N = tirx.Var("n", "int64")
OUT, IN, WIDE = 6, 70, 3  # 70 is no multiple of a group
NARROWER = [activation for activation in get_args(Activation) if activation != "int16"]
EPSILON = 1e-3


def variable(name: str, *shape: Any, dtype: str = "float32") -> Any:
    return relax.Var(name, relax.TensorType(list(shape), dtype))


def parts(columns: int = IN, batch: tuple[int, ...] = (), **changes: Any) -> LinearCall:
    """A linear layer of int8 weights over variables, with bias and residual."""
    rows = (*batch, N)
    wanted = LinearCall(
        variable("x", *rows, 2 * columns if changes.get("prologue") == "swiglu" else columns),
        variable("weight", OUT, columns, dtype="int8"),
        scale=variable("scale", OUT),
        bias=variable("bias", OUT),
        residual=variable("residual", *rows, OUT),
        norm=variable("norm", columns) if changes.get("prologue") == "rms_norm" else None,
        wide_rows=WIDE,
    )
    return replace(wanted, **changes)


def program(one: LinearCall) -> Program:
    builder = relax.BlockBuilder()
    arguments = (one.x, one.weight, one.scale, one.bias, one.residual, one.norm)
    parameters = [argument for argument in arguments if argument is not None]
    with builder.function("main", parameters):
        with builder.dataflow():
            output = builder.emit_output(builder.emit(one.make()))
        builder.emit_func_output(output)
    return Program(builder.get(), ParameterPlan())


def call_of(one: Program) -> Any:
    return one.function.body.blocks[0].bindings[0].value


VARIANTS = [
    {},
    {"bias": None, "residual": None, "activation": "int8_token"},
    {"activation": "bf16", "prologue": "swiglu"},
    {"activation": "int8_g64", "prologue": "rms_norm", "epsilon": EPSILON},
    {"residual": None, "prologue": "rms_norm", "epsilon": EPSILON},
]


@pytest.mark.parametrize("changes", VARIANTS)
def test_text_parses_back_and_the_parts_make_the_same_call(changes: dict[str, Any]) -> None:
    one = program(parts(**changes))
    tvm.ir.assert_structural_equal(from_source(one.module.script()), one.module, map_free_vars=True)
    call = call_of(one)
    tvm.ir.assert_structural_equal(LinearCall.of(call).make(), relax.Call(call.op, call.args, call.attrs))


def test_what_says_nothing_is_left_out() -> None:
    plain = call_of(program(parts(bias=None, residual=None, epsilon=1.0)))
    assert dict(plain.attrs.items()) == {"bias": 0, "residual": 0}
    gated = call_of(program(parts(prologue="swiglu", epsilon=1.0, activation="bf16")))
    assert set(gated.attrs.keys()) == {"bias", "residual", "activation", "wide_rows", "prologue"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "int4"}, "no activation int4; it has int16, bf16"),
        ({"prologue": "softmax"}, "no prologue softmax; it has none, rms_norm"),
        ({"wide_rows": -1, "activation": "bf16"}, "a number of rows, not -1"),
        ({"prologue": "rms_norm", "norm": None}, "takes 4 arguments behind the weight here, not 3"),
        (
            {"weight": variable("w", OUT, IN, dtype="float16"), "scale": None, "activation": "bf16"},
            "bf16 of R.vamc.linear needs int8 weights, not float16",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parts(**changes).make()


def drawn(one: LinearCall, n: int, seed: int) -> dict[str, Array]:
    """By argument. Rows of very different size; the second is zero, and so is a group of the first."""
    rng = np.random.default_rng(seed)
    values: dict[str, Array] = {}
    for name in ("x", "weight", "scale", "bias", "residual", "norm"):
        variable = getattr(one, name)
        if variable is not None:
            shape = [n if str(d) == "n" else int(d) for d in variable.ty.shape]
            values[name] = rng.standard_normal(shape).astype(np.float32)
    values["x"] *= 10.0 ** rng.integers(-3, 4, (n, 1))
    values["x"][..., :1, :64], values["x"][..., 1:2, :] = 0, 0
    values["weight"] = rng.integers(-127, 128, values["weight"].shape).astype(np.int8)
    return values


def prepared(one: LinearCall, x: Array, norm: Array | None) -> Array:
    """p(x), f64."""
    wide = x.astype(np.float64)
    if one.prologue == "rms_norm":
        return wide / np.sqrt((wide**2).mean(-1, keepdims=True) + one.epsilon) * norm
    if one.prologue == "swiglu":
        gate, up = np.split(wide, 2, axis=-1)
        return gate * (0.5 + 0.5 * np.tanh(gate / 2)) * up
    return wide


def rounded(x: Array, activation: Activation) -> Array:
    """x f64 as a product with many rows sees it."""
    if activation == "bf16":
        return x.astype(np.float32).astype(ml_dtypes.bfloat16).astype(np.float64)
    columns = x.shape[-1]
    group = columns_per_scale(activation, columns) or columns
    result = np.zeros_like(x)
    for first in range(0, columns, group):
        part = x[..., first : first + group]
        scale = np.abs(part).max(-1, keepdims=True) / 127
        scale[scale == 0] = 1
        result[..., first : first + group] = np.rint(part / scale) * scale
    return result


def expected(one: LinearCall, given: dict[str, Array], *, many: bool) -> Array:
    x = prepared(one, given["x"], given.get("norm"))
    x = rounded(x, one.activation) if many and one.activation != "int16" else x
    y = x @ given["weight"].astype(np.float64).T * given["scale"]
    return y + given.get("bias", 0) + given.get("residual", 0)


@pytest.mark.parametrize("prologue", ["none", "rms_norm", "swiglu"])
@pytest.mark.parametrize("activation", get_args(Activation))
def test_reference(activation: Activation, prologue: str) -> None:
    one = parts(activation=activation, prologue=prologue, epsilon=EPSILON)
    run = Compiled(program(one))
    for n in (0, 1, WIDE, WIDE + 1, 7):
        given = drawn(one, n, seed=n)
        [got] = run(*given.values())
        # A value that lies between two integers may be rounded the other way in float32: one step of 127 in one column.
        np.testing.assert_allclose(got, expected(one, given, many=n > WIDE), rtol=2e-5, atol=2e-4)
        if n > WIDE and activation != "int16":
            exact = expected(replace(one, activation="int16"), given, many=False)
            assert np.abs(got - exact).max() > 1e-3  # rounding shows


@pytest.mark.parametrize("activation", NARROWER)
def test_all_leading_dimensions_count_as_rows(activation: Activation) -> None:
    run = Compiled(program(parts(activation=activation, batch=(2,))))
    flat = Compiled(program(parts(activation=activation)))
    for n in (1, 2):  # 2 and 4 rows, WIDE is 3
        given = drawn(parts(batch=(2,)), n, seed=3)
        [got] = run(*given.values())
        rows = {name: x.reshape(2 * n, -1) if x.ndim == 3 else x for name, x in given.items()}
        [want] = flat(*rows.values())
        np.testing.assert_array_equal(got.reshape(want.shape), want)


@settings(max_examples=30, deadline=None)
@given(bits=st.lists(st.integers(0, 2**32 - 1), min_size=4, max_size=4))
def test_bf16_is_round_half_to_even(bf16_identity: Compiled, bits: list[int]) -> None:
    x = np.array(bits, np.uint32).view(np.float32)
    x[~np.isfinite(x) | (np.abs(x) > 1e38) | (np.abs(x) < 1e-30)] = 1.0
    [got] = bf16_identity(x[:, None], np.ones((1, 1), np.int8), np.ones(1, np.float32))
    np.testing.assert_array_equal(got[:, 0], x.astype(ml_dtypes.bfloat16).astype(np.float32))


@pytest.fixture(scope="module")
def bf16_identity() -> Compiled:
    """x f32[n, 1] times a weight of one, rounded to bfloat16."""
    weight, scale = variable("weight", 1, 1, dtype="int8"), variable("scale", 1)
    return Compiled(program(LinearCall(variable("x", N, 1), weight, scale, activation="bf16")))


def test_groups_and_rows() -> None:
    assert [columns_per_scale(one, 100) for one in get_args(Activation)] == [None, None, 32, 64, 100, 100]
    assert [default_wide_rows(one) for one in get_args(Activation)] == [0, 24, 8, 8, 8, 8]


def test_linear_takes_apart_a_float_layer() -> None:
    x, weight, residual = variable("x", N, 4), variable("w", 4, 4), variable("r", N, 4)
    call = dialect.linear(x, weight, residual, residual=True)
    one = LinearCall.of(call)
    assert (one.x, one.weight, one.scale, one.bias, one.residual) == (x, weight, None, None, residual)
