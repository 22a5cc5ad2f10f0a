"""raise-linear: products with a transposed weight, and nothing else."""

from __future__ import annotations

from support.relax_modules import apply_passes, assert_rewrites, assert_same_results, assert_unchanged, program_of
from tvm.script import ir as I
from tvm.script import relax as R

import vamc_py.dialect  # noqa: F401
from vamc_py.passes.raise_linear import RaiseLinear


@I.ir_module
class Products:
    """Without and with a bias (on either side), one weight used twice, and a product that is used twice."""

    @R.function
    def main(x: R.Tensor((1, "n", 8), "float32"), w: R.Tensor((8, 8), "float32"), b: R.Tensor((8,), "float32")):
        R.func_attr({"vamc.inputs": 1})
        with R.dataflow():
            first = R.matmul(x, R.permute_dims(w), out_dtype="float32")
            second = R.matmul(first, R.permute_dims(w, axes=[1, 0]))
            right = R.add(second, b)
            third = R.matmul(right, R.permute_dims(w, axes=[-1, -2]))
            left = R.add(b, third)
            shared = R.matmul(left, R.permute_dims(w))
            biased = R.add(shared, b)
            result = R.add(biased, shared)
            R.output(result)
        return result


@I.ir_module
class Linears:
    @R.function
    def main(x: R.Tensor((1, "n", 8), "float32"), w: R.Tensor((8, 8), "float32"), b: R.Tensor((8,), "float32")):
        R.func_attr({"vamc.inputs": 1})
        with R.dataflow():
            first = R.vamc.linear(x, w, bias=False, residual=False)
            right = R.vamc.linear(first, w, b, bias=True, residual=False)
            left = R.vamc.linear(right, w, b, bias=True, residual=False)
            shared = R.vamc.linear(left, w, bias=False, residual=False)
            biased = R.add(shared, b)
            result = R.add(biased, shared)
            R.output(result)
        return result


@I.ir_module
class OtherProducts:
    """Two activations, a weight that is not transposed (also by a transposition of nothing), the weight on the left."""

    @R.function
    def main(x: R.Tensor((8, 8), "float32"), y: R.Tensor((8, 8), "float32"), w: R.Tensor((8, 8), "float32")):
        R.func_attr({"vamc.inputs": 2})
        with R.dataflow():
            activations = R.matmul(x, R.permute_dims(y))
            plain = R.matmul(x, w)
            unturned = R.matmul(x, R.permute_dims(w, axes=[0, 1]))
            left = R.matmul(w, R.permute_dims(x))
            gv = (activations, plain, unturned, left)
            R.output(gv)
        return gv


@I.ir_module
class OtherSums:
    """What is added is no bias: another activation, a weight of one element, a matrix."""

    @R.function
    def main(
        x: R.Tensor((3, 8), "float32"),
        y: R.Tensor((8,), "float32"),
        w: R.Tensor((8, 8), "float32"),
        one: R.Tensor((1,), "float32"),
        matrix: R.Tensor((3, 8), "float32"),
    ):
        R.func_attr({"vamc.inputs": 2})
        with R.dataflow():
            p1 = R.matmul(x, R.permute_dims(w))
            activation = R.add(p1, y)
            p2 = R.matmul(x, R.permute_dims(w))
            scalar = R.add(p2, one)
            p3 = R.matmul(x, R.permute_dims(w))
            table = R.add(p3, matrix)
            gv = (activation, scalar, table)
            R.output(gv)
        return gv


@I.ir_module
class OtherSumsRaised:
    @R.function
    def main(
        x: R.Tensor((3, 8), "float32"),
        y: R.Tensor((8,), "float32"),
        w: R.Tensor((8, 8), "float32"),
        one: R.Tensor((1,), "float32"),
        matrix: R.Tensor((3, 8), "float32"),
    ):
        R.func_attr({"vamc.inputs": 2})
        with R.dataflow():
            p1 = R.vamc.linear(x, w, bias=False, residual=False)
            activation = R.add(p1, y)
            p2 = R.vamc.linear(x, w, bias=False, residual=False)
            scalar = R.add(p2, one)
            p3 = R.vamc.linear(x, w, bias=False, residual=False)
            table = R.add(p3, matrix)
            gv = (activation, scalar, table)
            R.output(gv)
        return gv


def test_products_become_linear() -> None:
    assert_rewrites(RaiseLinear(), Products, Linears)


def test_other_products_stay() -> None:
    assert_unchanged(RaiseLinear(), OtherProducts)


def test_only_a_bias_is_absorbed() -> None:
    assert_rewrites(RaiseLinear(), OtherSums, OtherSumsRaised)


def test_results_stay() -> None:
    program = program_of(Products)
    assert_same_results(program, apply_passes(program, RaiseLinear()), {"n": 3}, scale=0.3)
