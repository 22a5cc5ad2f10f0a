"""bundle-parameters: the caches and the weights are one tuple each."""

from __future__ import annotations

import numpy as np
import tvm
from support.relax_modules import Compiled, apply_passes, assert_rewrites, program_of, tensor
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from vamc_py.passes.bundle_parameters import BundleParameters
from vamc_py.pipeline.graph import Graph


@I.ir_module
class Before:
    @R.function
    def main(
        x: R.Tensor(("n", 4), "float32"),
        k: R.Tensor(("n", 4), "float32"),
        v: R.Tensor(("n", 4), "float32"),
        a: R.Tensor((4,), "float32"),
        b: R.Tensor((4,), "float32"),
    ):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 2})
        with R.dataflow():
            y = R.multiply(x, a)
            z = R.add(y, k)
            w = R.subtract(z, v)
            out = R.add(w, b)
            R.output(out)
        return out


@I.ir_module
class Expected:
    @R.function
    def main(
        x: R.Tensor(("n", 4), "float32"),
        caches: R.Tuple(R.Tensor(("n", 4), "float32"), R.Tensor(("n", 4), "float32")),
        params: R.Tuple(R.Tensor((4,), "float32"), R.Tensor((4,), "float32")),
    ):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 2})
        with R.dataflow():
            a = params[0]
            y = R.multiply(x, a)
            k = caches[0]
            z = R.add(y, k)
            v = caches[1]
            w = R.subtract(z, v)
            b = params[1]
            out = R.add(w, b)
            R.output(out)
        return out


def test_members_are_read_from_tuples_in_their_order() -> None:
    assert_rewrites(BundleParameters(), Before, Expected)


def test_the_function_takes_the_tuples_and_gives_the_same() -> None:
    before = program_of(Before)
    after = apply_passes(before, BundleParameters())
    rng = np.random.default_rng(0)
    x, k, v = (rng.standard_normal((3, 4)).astype(np.float32) for _ in range(3))
    a, b = (rng.standard_normal(4).astype(np.float32) for _ in range(2))
    [want] = Compiled(before)(x, k, v, a, b)
    [got] = Compiled(after)(x, (tensor(k), tensor(v)), (tensor(a), tensor(b)))
    np.testing.assert_array_equal(got, want)
    np.testing.assert_allclose(got, x * a + k - v + b, rtol=1e-5, atol=1e-6)


@I.ir_module
class NothingToBundle:
    @R.function
    def main(x: R.Tensor(("n", 4), "float32"), unused: R.Tensor((4,), "float32")):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            out = R.add(x, x)
            R.output(out)
        return out


def test_both_tuples_are_there_even_when_nothing_reads_them() -> None:
    after = apply_passes(program_of(NothingToBundle), BundleParameters())
    assert [parameter.name for parameter in after.function.params] == ["x", "caches", "params"]
    _, caches, params = (parameter.ty for parameter in after.function.params)
    tvm.ir.assert_structural_equal(caches, relax.TupleType([]))
    tvm.ir.assert_structural_equal(params, relax.TupleType([relax.TensorType([4], "float32")]))
    assert len(Graph(after.function).calls("relax.add")) == 1


def test_the_plan_stays_as_it_is() -> None:
    program = program_of(Before)
    assert apply_passes(program, BundleParameters()).plan == program.plan
