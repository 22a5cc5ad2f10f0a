"""Running a function operator by operator gives what the compiled function gives, and shows and replaces values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.checkpoints import model_config
from support.checks import interpreter
from support.relax_modules import Compiled, program_of, random_arguments, traced_program
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from vamc_py.check.interpreter import OperatorError
from vamc_py.check.values import Result, Value, tensors_of


def run(program: Any, arguments: list[Any], each: Any = None) -> list[Any]:
    values = [argument if isinstance(argument, Value) else Value(argument) for argument in arguments]
    result = interpreter().run(program.module, program.function, values, each)
    return [value.array for value in tensors_of(result)]


def test_a_traced_model_gives_what_it_gives_compiled() -> None:
    program = traced_program(model_config(architecture="qwen3", layers=1))
    arguments = random_arguments(program, {"n": 3, "p": 2, "p + n": 5}, scale=0.3)
    for got, want in zip(run(program, arguments), Compiled(program)(*arguments), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@I.ir_module
class Chain:
    @R.function
    def main(x: R.Tensor(("n", 4), "float32"), w: R.Tensor((4, 4), "float32")):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            first = R.vamc.linear(x, w, bias=False, residual=False)
            parts = R.split(first, 2, axis=-1)
            left = parts[0]
            second = R.exp(left)
            out = R.add(second, left)
            R.output(out)
        return out


def test_every_binding_is_heard_and_can_be_replaced() -> None:
    x, w = np.ones((2, 4), np.float32), np.eye(4, dtype=np.float32)
    heard = []

    def each(name: str, result: Result) -> Result:
        heard.append(name)
        return Value(np.zeros((2, 2), np.float32)) if name == "second" else result

    [out] = run(program_of(Chain), [x, w], each)
    assert heard[:5] == ["first", "parts", "left", "second", "out"]
    np.testing.assert_array_equal(out, np.ones((2, 2)))
    [out] = run(program_of(Chain), [x, w])
    np.testing.assert_allclose(out, np.full((2, 2), np.e + 1), rtol=1e-6)


@I.ir_module
class InPlace:
    """A kernel that changes its second argument."""

    @T.prim_func(private=True, s_tir=True)
    def add_to(x_handle: T.handle, total_handle: T.handle, out_handle: T.handle) -> None:
        T.func_attr({"op_pattern": 8})
        n = T.int64()
        x = T.match_buffer(x_handle, (n,), "float32")
        total = T.match_buffer(total_handle, (n,), "float32")
        out = T.match_buffer(out_handle, (n,), "float32")
        for i in range(n):
            total[i] = total[i] + x[i]
            out[i] = total[i] * T.float32(2)

    @R.function
    def main(x: R.Tensor(("n",), "float32"), total: R.Tensor(("n",), "float32")):
        n = T.int64()
        cls = InPlace
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 1})
        with R.dataflow():
            both = R.call_tir_inplace(
                cls.add_to,
                (x, total),
                inplace_indices=[1, -1],
                out_ty=[R.Tensor((n,), "float32"), R.Tensor((n,), "float32")],
            )
            out = both[1]
            R.output(out)
        return out


def test_a_cache_is_changed_in_place() -> None:
    total = Value(np.array([1.0, 2.0], np.float32))
    [out] = run(program_of(InPlace), [np.array([10.0, 20.0], np.float32), total])
    np.testing.assert_array_equal(out, [22, 44])
    np.testing.assert_array_equal(total.array, [11, 22])
    run(program_of(InPlace), [np.array([1.0, 1.0], np.float32), total])
    np.testing.assert_array_equal(total.array, [12, 23])


@I.ir_module
class Scaled:
    """A kernel that takes a number beside a tensor."""

    @T.prim_func(private=True, s_tir=True)
    def scale(x_handle: T.handle, factor: T.int64, out_handle: T.handle) -> None:
        n = T.int64()
        x = T.match_buffer(x_handle, (n,), "float32")
        out = T.match_buffer(out_handle, (n,), "float32")
        for i in range(n):
            out[i] = x[i] * T.cast(factor, "float32")

    @R.function
    def main(x: R.Tensor(("n",), "float32")):
        n = T.int64()
        cls = Scaled
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            out = R.call_tir(cls.scale, (x, n + 1), out_ty=R.Tensor((n,), "float32"))
            R.output(out)
        return out


def test_a_kernel_may_take_numbers() -> None:
    [out] = run(program_of(Scaled), [np.ones(3, np.float32)])
    np.testing.assert_array_equal(out, [4, 4, 4])


def test_an_operator_that_cannot_run_is_named() -> None:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType([3], "float32"))
    with builder.function("main", [x], attrs={"vamc.inputs": 1, "vamc.caches": 0}):
        with builder.dataflow():
            out = relax.op.call_dps_packed("nobody.registered.this", [x], relax.TensorType([3], "float32"))
            result = builder.emit_output(builder.emit(out, "from_nowhere"))
        builder.emit_func_output(result)
    with pytest.raises(OperatorError, match=r"from_nowhere = relax\.call_dps_packed cannot be run") as raised:
        run(program_of(builder.get()), [np.ones(3, np.float32)])
    assert (raised.value.binding, raised.value.operator) == ("from_nowhere", "relax.call_dps_packed")
