"""raise-rms-norm: the ways in which models write it, and nothing that is close to it."""

from __future__ import annotations

from support.relax_modules import apply_passes, assert_rewrites, assert_same_results, assert_unchanged, program_of
from tvm.script import ir as I
from tvm.script import relax as R

import vamc_py.dialect  # noqa: F401
from vamc_py.passes.raise_rms_norm import RaiseRmsNorm


@I.ir_module
class Norms:
    """power and rsqrt, x * x and sqrt, the operands in either order, four dimensions."""

    @R.function
    def main(x: R.Tensor((1, "n", 2, 4), "float32"), w: R.Tensor((4,), "float32")):
        R.func_attr({"vamc.inputs": 1})
        with R.dataflow():
            mean1 = R.mean(R.power(x, R.const(2.0, "float32")), axis=[-1], keepdims=True)
            root1 = R.rsqrt(R.add(mean1, R.const(0.125, "float32")))
            first = R.multiply(w, R.multiply(x, root1))
            mean2 = R.mean(R.multiply(first, first), axis=[3], keepdims=True)
            root2 = R.sqrt(R.add(R.const(0.25, "float32"), mean2))
            second = R.multiply(R.divide(first, root2), w)
            mean3 = R.mean(R.multiply(second, second), axis=[-1], keepdims=True)
            root3 = R.rsqrt(R.add(mean3, R.const(0.5, "float32")))
            third = R.multiply(R.multiply(root3, second), w)
            R.output(third)
        return third


@I.ir_module
class Raised:
    @R.function
    def main(x: R.Tensor((1, "n", 2, 4), "float32"), w: R.Tensor((4,), "float32")):
        R.func_attr({"vamc.inputs": 1})
        with R.dataflow():
            first = R.vamc.rms_norm(x, w, epsilon=0.125)
            second = R.vamc.rms_norm(first, w, epsilon=0.25)
            third = R.vamc.rms_norm(second, w, epsilon=0.5)
            R.output(third)
        return third


@I.ir_module
class AlmostNorms:
    """A mean over another axis or over two, of another value, of cubes, without keepdims; a weight that is none, or is
    broadcast over one element; a divisor that is not a square root."""

    @R.function
    def main(
        x: R.Tensor((4, 4), "float32"),
        y: R.Tensor((4, 4), "float32"),
        v: R.Tensor((4,), "float32"),
        w: R.Tensor((4,), "float32"),
        one: R.Tensor((1,), "float32"),
    ):
        R.func_attr({"vamc.inputs": 3})
        with R.dataflow():
            squares = R.multiply(x, x)
            axis = R.rsqrt(R.add(R.mean(squares, axis=[0], keepdims=True), R.const(0.5, "float32")))
            other_axis = R.multiply(w, R.multiply(x, axis))
            both = R.rsqrt(R.add(R.mean(squares, axis=[0, 1], keepdims=True), R.const(0.5, "float32")))
            two_axes = R.multiply(w, R.multiply(x, both))
            other = R.rsqrt(R.add(R.mean(R.multiply(y, y), axis=[-1], keepdims=True), R.const(0.5, "float32")))
            other_value = R.multiply(w, R.multiply(x, other))
            mixed = R.rsqrt(R.add(R.mean(R.multiply(x, y), axis=[-1], keepdims=True), R.const(0.5, "float32")))
            product = R.multiply(w, R.multiply(x, mixed))
            cubes = R.mean(R.power(x, R.const(3.0, "float32")), axis=[-1], keepdims=True)
            cubed = R.multiply(w, R.multiply(x, R.rsqrt(R.add(cubes, R.const(0.5, "float32")))))
            narrow = R.multiply(w, R.multiply(x, R.rsqrt(R.add(R.mean(squares, axis=[-1]), R.const(0.5, "float32")))))
            good = R.multiply(x, R.rsqrt(R.add(R.mean(squares, axis=[-1], keepdims=True), R.const(0.5, "float32"))))
            activation = R.multiply(v, good)
            broadcast = R.multiply(one, good)
            divided = R.divide(x, R.add(R.mean(squares, axis=[-1], keepdims=True), R.const(0.5, "float32")))
            no_root = R.multiply(w, divided)
            gv = (other_axis, two_axes, other_value, product, cubed, narrow, activation, broadcast, no_root)
            R.output(gv)
        return gv


def test_norms_are_raised() -> None:
    assert_rewrites(RaiseRmsNorm(), Norms, Raised)


def test_what_is_no_rms_norm_stays() -> None:
    assert_unchanged(RaiseRmsNorm(), AlmostNorms)


def test_results_stay() -> None:
    program = program_of(Norms)
    assert_same_results(program, apply_passes(program, RaiseRmsNorm()), {"n": 3})
