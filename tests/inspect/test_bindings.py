"""Relax functions as lines to read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from vamc_py.dialect import linear
from vamc_py.inspect.bindings import View, constant_text, short_dtype, type_text


def lines(function: Any, **options: Any) -> list[str]:
    view = View(function, **options)
    return [view.line(statement) for statement in view.statements]


def function_of(make: Any, *parameters: Any) -> Any:
    """The function of one dataflow block that returns what ``make(builder, *parameters)`` gives."""
    builder = relax.BlockBuilder()
    with builder.function("main", list(parameters)):
        with builder.dataflow():
            output = builder.emit_output(make(builder, *parameters))
        builder.emit_func_output(output)
    return builder.get()["main"]


def test_a_call_shows_type_operator_arguments_and_attributes() -> None:
    weight = relax.Var("model.layers.0.mlp.up_proj.weight", relax.TensorType([8, 4], "float32"))
    x = relax.Var("x", relax.TensorType([2, 4], "float32"))
    function = function_of(lambda builder, x, w: builder.emit(linear(x, w), "lv3"), x, weight)
    assert lines(function) == [
        "lv3: f32[2, 8] = vamc.linear(x, model.layers.0.mlp.up_proj.weight, bias=False, residual=False)",
        "result: f32[2, 8] = lv3",  # the output only renames lv3
    ]


def test_symbolic_sizes_slices_and_tuples() -> None:
    @I.ir_module
    class Module:
        @R.function
        def main(x: R.Tensor(("n", 4), "float32"), y: R.Tensor(("n", 4), "float32")):
            n = T.int64()
            with R.dataflow():
                both = R.concat((x, y), axis=0)
                last = R.strided_slice(both, axes=[0], begin=[n - 1], end=[n], assume_inbound=True)
                parts = R.split(both, 2, axis=1)
                first = parts[0]
                gv = (last, first)
                R.output(gv)
            return gv

    assert lines(Module["main"]) == [
        "both: f32[n * 2, 4] = concat((x, y), axis=0)",
        "last: f32[1, 4] = strided_slice(both, (0,), (n - 1,), (n,), assume_inbound=True)",
        "parts: (f32[n * 2, 2], f32[n * 2, 2]) = split(both, indices_or_sections=2, axis=1)",
        "first: f32[n * 2, 2] = parts[0]",
        "result 0: f32[1, 4] = last",
        "result 1: f32[n * 2, 2] = first",
    ]


def test_a_kernel_call_is_named_by_its_kernel() -> None:
    @I.ir_module
    class Module:
        @T.prim_func(private=True, s_tir=True)
        def double(x: T.Buffer((4,), "float32"), y: T.Buffer((4,), "float32")):
            for i in range(4):
                y[i] = x[i] * T.float32(2)

        @R.function
        def main(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
            cls = Module
            with R.dataflow():
                lv = R.call_tir(cls.double, (x,), R.Tensor((4,), "float32"))
                R.output(lv)
            return lv

    assert lines(Module["main"])[0] == "lv: f32[4] = kernel double(x)"
    assert lines(Module["main"], kernels={"double": "twice"})[0] == "lv: f32[4] = kernel twice(x)"


def test_a_tuple_of_parameters_is_shown_by_its_fields() -> None:
    field = relax.TensorType([4], "float32")
    params = relax.Var("params", relax.TupleType([field, field]))
    function = function_of(
        lambda builder, p: builder.emit(relax.op.add(builder.emit(p[0]), builder.emit(p[1])), "sum"), params
    )
    assert lines(function)[-2:] == ["sum: f32[4] = add(lv, lv1)", "result: f32[4] = sum"]
    named = View(function, members={"params": ["a.weight", "b.weight"]})
    assert named.parameters == [("a.weight", "f32[4]"), ("b.weight", "f32[4]")]
    assert [named.line(statement) for statement in named.statements] == [
        "sum: f32[4] = add(a.weight, b.weight)",
        "result: f32[4] = sum",
    ]


def test_numbers_of_values_and_their_readers() -> None:
    x = relax.Var("x", relax.TensorType([4], "float32"))
    function = function_of(lambda builder, x: builder.emit(relax.op.add(x, builder.emit(relax.op.exp(x)))), x)
    view = View(function)
    assert view.names == ["x", "lv", "lv1", "result"]
    assert view.users == [[1, 2], [2], [3], []]
    assert [view.number(binding.var) for binding in function.body.blocks[0].bindings] == [1, 2, 2]
    assert view.statement(2).operator == "add"
    with pytest.raises(IndexError, match="x is a parameter"):
        view.statement(0)


def test_constants() -> None:
    table = np.arange(6, dtype="float32").reshape(2, 3)
    assert constant_text(relax.const(1e-6, "float32")) == "f32(1e-06)"
    assert constant_text(relax.const(2**63 - 1, "int64")) == "i64(end)"
    assert constant_text(relax.const(np.ones((1, 1), "float32"))).startswith("constant f32[1, 1] of 1.0 #")
    shown = constant_text(relax.const(table))
    assert shown.startswith("constant f32[2, 3] #")
    assert shown == constant_text(relax.const(table.copy()))
    table[1, 2] = 7
    assert shown != constant_text(relax.const(table))


def test_types() -> None:
    assert type_text(relax.TensorType(None, "float16", ndim=2)) == "f16[?, ?]"
    assert type_text(relax.TensorType(None, "int8")) == "i8[?]"
    assert [short_dtype(name) for name in ("bfloat16", "uint8", "int64", "bool")] == ["bf16", "u8", "i64", "bool"]
