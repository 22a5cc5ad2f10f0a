"""strided-slice: the last token alone goes through the final norm and lm_head."""

from __future__ import annotations

from typing import Any

import pytest
from numpy.testing import assert_allclose
from support.relax_modules import (
    Compiled,
    apply_passes,
    assert_rewrites,
    assert_same_results,
    assert_unchanged,
    program_of,
    random_arguments,
)
from tvm import relax, tirx
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

import vamc_py.dialect  # noqa: F401
from vamc_py.passes.strided_slice import StridedSlice, last_token
from vamc_py.pipeline.graph import Graph


@I.ir_module
class Whole:
    @R.function
    def main(
        x: R.Tensor((1, "n", 4), "float32"),
        norm: R.Tensor((4,), "float32"),
        w: R.Tensor((6, 4), "float32"),
        b: R.Tensor((6,), "float32"),
    ):
        R.func_attr({"vamc.inputs": 1})
        with R.dataflow():
            normed = R.vamc.rms_norm(x, norm, epsilon=0.5)
            logits = R.vamc.linear(normed, w, b, bias=True, residual=False)
            gv = (logits, x)
            R.output(gv)
        return gv


@I.ir_module
class Last:
    @R.function
    def main(
        x: R.Tensor((1, "n", 4), "float32"),
        norm: R.Tensor((4,), "float32"),
        w: R.Tensor((6, 4), "float32"),
        b: R.Tensor((6,), "float32"),
    ):
        R.func_attr({"vamc.inputs": 1})
        n = T.int64()
        with R.dataflow():
            last = R.strided_slice(x, axes=[1], begin=[n - 1], end=[n], assume_inbound=True)
            normed = R.vamc.rms_norm(last, norm, epsilon=0.5)
            logits = R.vamc.linear(normed, w, b, bias=True, residual=False)
            gv = (logits, x)
            R.output(gv)
        return gv


@I.ir_module
class SlicedByTheTrace:
    """As torch.export writes ``normed[:, -1:, :]``."""

    @R.function
    def main(
        x: R.Tensor((1, "n", 4), "float32"),
        norm: R.Tensor((4,), "float32"),
        w: R.Tensor((6, 4), "float32"),
        b: R.Tensor((6,), "float32"),
    ):
        R.func_attr({"vamc.inputs": 1})
        with R.dataflow():
            normed = R.vamc.rms_norm(x, norm, epsilon=0.5)
            last = R.strided_slice(
                normed, axes=[1], begin=[-1], end=[9223372036854775807], strides=[1], assume_inbound=False
            )
            logits = R.vamc.linear(last, w, b, bias=True, residual=False)
            gv = (logits, x)
            R.output(gv)
        return gv


@I.ir_module
class WithoutNorm:
    @R.function
    def main(x: R.Tensor((1, "n", 4), "float32"), w: R.Tensor((6, 4), "float32")):
        R.func_attr({"vamc.inputs": 1})
        with R.dataflow():
            hidden = R.tanh(x)
            logits = R.vamc.linear(hidden, w, bias=False, residual=False)
            R.output(logits)
        return logits


@I.ir_module
class WithoutNormLast:
    @R.function
    def main(x: R.Tensor((1, "n", 4), "float32"), w: R.Tensor((6, 4), "float32")):
        R.func_attr({"vamc.inputs": 1})
        n = T.int64()
        with R.dataflow():
            hidden = R.tanh(x)
            last = R.strided_slice(hidden, axes=[1], begin=[n - 1], end=[n], assume_inbound=True)
            logits = R.vamc.linear(last, w, bias=False, residual=False)
            R.output(logits)
        return logits


@I.ir_module
class CappedLogits:
    @R.function
    def main(x: R.Tensor((1, "n", 4), "float32"), w: R.Tensor((6, 4), "float32")):
        R.func_attr({"vamc.inputs": 1})
        with R.dataflow():
            logits = R.tanh(R.vamc.linear(x, w, bias=False, residual=False))
            R.output(logits)
        return logits


@I.ir_module
class FirstToken:
    """A slice of the first token is not the last token's: the pass slices what it gives."""

    @R.function
    def main(x: R.Tensor((1, "n", 4), "float32"), w: R.Tensor((6, 4), "float32")):
        R.func_attr({"vamc.inputs": 1})
        with R.dataflow():
            first = R.strided_slice(x, axes=[1], begin=[0], end=[1], assume_inbound=True)
            logits = R.vamc.linear(first, w, bias=False, residual=False)
            R.output(logits)
        return logits


@pytest.mark.parametrize(
    ("before", "expected"), [(Whole, Last), (SlicedByTheTrace, Last), (WithoutNorm, WithoutNormLast)]
)
def test_the_slice_comes_before_the_norm(before: Any, expected: Any) -> None:
    assert_rewrites(StridedSlice(), before, expected)


@pytest.mark.parametrize("module", [Last, WithoutNormLast])
def test_nothing_is_sliced_twice(module: Any) -> None:
    assert_unchanged(StridedSlice(), module)


def test_says_where_it_does_not_fire() -> None:
    assert_unchanged(StridedSlice(), CappedLogits)
    (note,) = apply_passes(program_of(CappedLogits), StridedSlice()).notes
    assert "strided-slice did not fire" in note


LAST, TORCH_END = -1, 2**63 - 1


@pytest.mark.parametrize(
    ("axis", "begin", "end", "stride", "wanted"),
    [
        (1, LAST, TORCH_END, 1, True),
        (1, lambda n: n - 1, lambda n: n, 1, True),
        (1, lambda n: n - 1, TORCH_END, 1, True),
        (1, 0, 1, 1, False),
        (1, -2, TORCH_END, 1, False),
        (1, lambda n: n - 2, lambda n: n, 1, False),
        (1, lambda n: n - 2, lambda n: n - 1, 1, False),
        (1, -1, TORCH_END, -1, False),
        (2, LAST, TORCH_END, 1, False),
    ],
)
def test_recognises_the_last_token(axis: int, begin: Any, end: Any, stride: int, wanted: bool) -> None:
    n = tirx.Var("n", "int64")
    x = relax.Var("x", relax.TensorType([1, n, 4], "float32"))
    first, last = (edge(n) if callable(edge) else edge for edge in (begin, end))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            output = builder.emit_output(relax.op.strided_slice(x, [axis], [first], [last], [stride]))
        builder.emit_func_output(output)
    graph = Graph(builder.get()["main"])
    found = last_token(graph, graph.result)
    assert (found is not None) == wanted
    assert found is None or found == x


@pytest.mark.parametrize("length", [1, 5])
def test_the_last_row_stays(length: int) -> None:
    before = program_of(Whole)
    arguments = random_arguments(before, {"n": length})
    logits, x = Compiled(before)(*arguments)
    last, same_x = Compiled(apply_passes(before, StridedSlice()))(*arguments)
    assert_allclose(last, logits[:, -1:], rtol=1e-5, atol=1e-6)
    assert_allclose(x, same_x)


@pytest.mark.parametrize("module", [SlicedByTheTrace, FirstToken])
def test_results_stay_where_one_row_was_sliced(module: Any) -> None:
    program = program_of(module)
    assert_same_results(program, apply_passes(program, StridedSlice()), {"n": 4})
