"""fuse-swiglu: the halves of one projection are read without a split."""

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

from vamc_py.passes.fuse_swiglu import FuseSwiglu


@I.ir_module
class Before:
    @R.function
    def main(x: R.Tensor(("n", 8), "float32")):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            parts = R.split(x, 2, axis=1)
            gate = parts[0]
            up = parts[1]
            out = R.vamc.swiglu(gate, up)
            R.output(out)
        return out


@I.ir_module
class Expected:
    @R.function
    def main(x: R.Tensor(("n", 8), "float32")):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            out = R.vamc.swiglu(x)
            R.output(out)
        return out


@I.ir_module
class BeforeByIndices:
    """As merge-linear writes it: by the column where the second part begins."""

    @R.function
    def main(x: R.Tensor(("n", 8), "float32")):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            parts = R.split(x, [4], axis=-1)
            gate = parts[0]
            up = parts[1]
            out = R.vamc.swiglu(gate, up)
            R.output(out)
        return out


@pytest.mark.parametrize("before", [Before, BeforeByIndices])
def test_the_split_goes(before: Any) -> None:
    assert_rewrites(FuseSwiglu(), before, Expected)


def test_the_values_stay() -> None:
    before = program_of(Before)
    assert_same_results(before, apply_passes(before, FuseSwiglu()), {"n": 5})


@I.ir_module
class OtherOrder:
    @R.function
    def main(x: R.Tensor(("n", 8), "float32")):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            parts = R.split(x, 2, axis=1)
            gate = parts[1]
            up = parts[0]
            out = R.vamc.swiglu(gate, up)
            R.output(out)
        return out


@I.ir_module
class OtherAxis:
    @R.function
    def main(x: R.Tensor((4, 8), "float32")):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            parts = R.split(x, 2, axis=0)
            gate = parts[0]
            up = parts[1]
            out = R.vamc.swiglu(gate, up)
            R.output(out)
        return out


@I.ir_module
class NotAllParts:
    @R.function
    def main(x: R.Tensor(("n", 12), "float32")):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            parts = R.split(x, 3, axis=1)
            gate = parts[0]
            up = parts[1]
            out = R.vamc.swiglu(gate, up)
            R.output(out)
        return out


@I.ir_module
class TwoSplits:
    @R.function
    def main(x: R.Tensor(("n", 8), "float32"), y: R.Tensor(("n", 8), "float32")):
        R.func_attr({"vamc.inputs": 2, "vamc.caches": 0})
        with R.dataflow():
            first = R.split(x, 2, axis=1)
            gate = first[0]
            second = R.split(y, 2, axis=1)
            up = second[1]
            out = R.vamc.swiglu(gate, up)
            R.output(out)
        return out


@I.ir_module
class MergedAlready:
    @R.function
    def main(x: R.Tensor(("n", 8), "float32")):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            out = R.vamc.swiglu(x)
            R.output(out)
        return out


@pytest.mark.parametrize("module", [OtherOrder, OtherAxis, NotAllParts, TwoSplits, MergedAlready])
def test_what_must_stay(module: Any) -> None:
    assert_unchanged(FuseSwiglu(), module)
