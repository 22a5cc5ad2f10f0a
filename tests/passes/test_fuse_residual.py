"""fuse-residual: a sum becomes the last argument of the linear layer before it."""

from __future__ import annotations

from typing import Any

import pytest
from support.relax_modules import (
    apply_passes,
    assert_rewrites,
    assert_same_results,
    assert_unchanged,
    program_of,
)
from tvm.script import ir as I
from tvm.script import relax as R

from vamc_py.passes.fuse_residual import FuseResidual


@I.ir_module
class Before:
    """Both orders of a sum, and a bias."""

    @R.function
    def main(
        x: R.Tensor(("n", 8), "float32"),
        a: R.Tensor((8, 8), "float32"),
        b: R.Tensor((8, 8), "float32"),
        bias: R.Tensor((8,), "float32"),
    ):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            first = R.vamc.linear(x, a, bias=False, residual=False)
            middle = R.add(x, first)
            second = R.vamc.linear(middle, b, bias, bias=True, residual=False)
            out = R.add(second, middle)
            R.output(out)
        return out


@I.ir_module
class Expected:
    @R.function
    def main(
        x: R.Tensor(("n", 8), "float32"),
        a: R.Tensor((8, 8), "float32"),
        b: R.Tensor((8, 8), "float32"),
        bias: R.Tensor((8,), "float32"),
    ):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            middle = R.vamc.linear(x, a, x, bias=False, residual=True)
            out = R.vamc.linear(middle, b, bias, middle, bias=True, residual=True)
            R.output(out)
        return out


def test_both_orders_of_a_sum() -> None:
    assert_rewrites(FuseResidual(), Before, Expected)


def test_the_values_stay() -> None:
    before = program_of(Before)
    assert_same_results(before, apply_passes(before, FuseResidual()), {"n": 5})


@I.ir_module
class TwoLayers:
    @R.function
    def main(x: R.Tensor(("n", 8), "float32"), a: R.Tensor((8, 8), "float32"), b: R.Tensor((8, 8), "float32")):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            first = R.vamc.linear(x, a, bias=False, residual=False)
            second = R.vamc.linear(x, b, bias=False, residual=False)
            both = R.add(first, second)
            out = R.add(both, x)
            R.output(out)
        return out


@I.ir_module
class TwoLayersFused:
    """A layer takes one residual: the second sum stays."""

    @R.function
    def main(x: R.Tensor(("n", 8), "float32"), a: R.Tensor((8, 8), "float32"), b: R.Tensor((8, 8), "float32")):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            second = R.vamc.linear(x, b, bias=False, residual=False)
            both = R.vamc.linear(x, a, second, bias=False, residual=True)
            out = R.add(both, x)
            R.output(out)
        return out


def test_a_layer_takes_one_residual() -> None:
    assert_rewrites(FuseResidual(), TwoLayers, TwoLayersFused)


@I.ir_module
class TwoUsers:
    @R.function
    def main(x: R.Tensor(("n", 8), "float32"), a: R.Tensor((8, 8), "float32")):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            product = R.vamc.linear(x, a, bias=False, residual=False)
            total = R.add(product, x)
            out = R.multiply(total, product)
            R.output(out)
        return out


@I.ir_module
class AddedToItself:
    @R.function
    def main(x: R.Tensor(("n", 8), "float32"), a: R.Tensor((8, 8), "float32")):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            product = R.vamc.linear(x, a, bias=False, residual=False)
            out = R.add(product, product)
            R.output(out)
        return out


@I.ir_module
class ProductIsAResult:
    @R.function
    def main(x: R.Tensor(("n", 8), "float32"), a: R.Tensor((8, 8), "float32")):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            product = R.vamc.linear(x, a, bias=False, residual=False)
            total = R.add(product, x)
            out = (product, total)
            R.output(out)
        return out


@I.ir_module
class BroadcastSum:
    @R.function
    def main(x: R.Tensor(("n", 8), "float32"), a: R.Tensor((8, 8), "float32"), shift: R.Tensor((8,), "float32")):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            product = R.vamc.linear(x, a, bias=False, residual=False)
            out = R.add(product, shift)
            R.output(out)
        return out


@I.ir_module
class BroadcastProduct:
    @R.function
    def main(x: R.Tensor((1, 8), "float32"), y: R.Tensor(("n", 8), "float32"), a: R.Tensor((8, 8), "float32")):
        R.func_attr({"vamc.inputs": 2, "vamc.caches": 0})
        with R.dataflow():
            product = R.vamc.linear(x, a, bias=False, residual=False)
            out = R.add(y, product)
            R.output(out)
        return out


@pytest.mark.parametrize("module", [TwoUsers, AddedToItself, ProductIsAResult, BroadcastSum, BroadcastProduct])
def test_what_must_stay(module: Any) -> None:
    assert_unchanged(FuseResidual(), module)
