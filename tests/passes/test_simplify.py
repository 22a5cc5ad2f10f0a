"""simplify takes out what changes nothing, and only that."""

from __future__ import annotations

from support.relax_modules import apply_passes, assert_rewrites, assert_same_results, assert_unchanged, program_of
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

import vamc_py.dialect  # noqa: F401
from vamc_py.passes.simplify import Simplify


@I.ir_module
class Idle:
    @R.function
    def main(x: R.Tensor((1, "n", 4), "float32"), past: R.Tensor((1, "p", 4), "float32")):
        R.func_attr({"vamc.inputs": 2})
        n, p = T.int64(), T.int64()
        with R.dataflow():
            cast = R.astype(x, "float32")
            same = R.reshape(cast, R.shape([1, n, 4]))
            spread = R.broadcast_to(same, R.shape([1, n, 4]))
            open_ended = R.strided_slice(spread, axes=[1], begin=[0], end=[9223372036854775807])
            too_long = R.strided_slice(open_ended, axes=[2], begin=[0], end=[9], assume_inbound=False)
            once = R.multiply(too_long, R.const(1.0, "float32"))
            there = R.permute_dims(once, axes=[0, 2, 1])
            back = R.permute_dims(there, axes=[0, 2, 1])
            result = R.exp(back)
            grown = R.concat((past, x), axis=1)
            renamed = R.strided_slice(grown, axes=[1], begin=[0], end=[n + p])
            whole = R.exp(renamed)
            gv = (result, whole)
            R.output(gv)
        return gv


@I.ir_module
class Work:
    @R.function
    def main(x: R.Tensor((1, "n", 4), "float32"), past: R.Tensor((1, "p", 4), "float32")):
        R.func_attr({"vamc.inputs": 2})
        with R.dataflow():
            result = R.exp(x)
            grown = R.concat((past, x), axis=1)
            whole = R.exp(grown)
            gv = (result, whole)
            R.output(gv)
        return gv


@I.ir_module
class Pairs:
    @R.function
    def main(x: R.Tensor((2, "n", 4), "float32")):
        R.func_attr({"vamc.inputs": 1})
        n = T.int64()
        with R.dataflow():
            rows = R.reshape(x, R.shape([2 * n, 4]))
            flat = R.reshape(rows, R.shape([2 * n * 4]))
            turned = R.permute_dims(x, axes=[1, 2, 0])
            again = R.permute_dims(turned, axes=[1, 0, 2])
            gv = (flat, again)
            R.output(gv)
        return gv


@I.ir_module
class Merged:
    @R.function
    def main(x: R.Tensor((2, "n", 4), "float32")):
        R.func_attr({"vamc.inputs": 1})
        n = T.int64()
        with R.dataflow():
            flat = R.reshape(x, R.shape([2 * n * 4]))
            again = R.permute_dims(x, axes=[2, 1, 0])
            gv = (flat, again)
            R.output(gv)
        return gv


@I.ir_module
class Needed:
    """Everything here looks idle and is not."""

    @R.function
    def main(x: R.Tensor((1, "n", 4), "float32"), ids: R.Tensor(("n",), "int64")):
        R.func_attr({"vamc.inputs": 2})
        n = T.int64()
        with R.dataflow():
            narrow = R.astype(ids, "int32")
            spread = R.broadcast_to(x, R.shape([3, n, 4]))
            without_first = R.strided_slice(x, axes=[2], begin=[1], end=[9223372036854775807])
            without_last = R.strided_slice(x, axes=[2], begin=[0], end=[-1], assume_inbound=False)
            every_second = R.strided_slice(x, axes=[2], begin=[0], end=[4], strides=[2])
            twice = R.multiply(x, R.const(2.0, "float32"))
            grown = R.multiply(x, R.const([[[1.0]], [[1.0]]], "float32"))
            turned = R.permute_dims(x, axes=[0, 2, 1])
            gv = (narrow, spread, without_first, without_last, every_second, twice, grown, turned)
            R.output(gv)
        return gv


def test_idle_operators_go() -> None:
    assert_rewrites(Simplify(), Idle, Work)


def test_pairs_become_one() -> None:
    assert_rewrites(Simplify(), Pairs, Merged)


def test_needed_operators_stay() -> None:
    assert_unchanged(Simplify(), Needed)


def test_results_stay() -> None:
    for module in (Idle, Pairs):
        program = program_of(module)
        assert_same_results(program, apply_passes(program, Simplify()), {"n": 3, "p": 2})
