"""raise-attention: eager grouped-query attention, however its scale and its heads are written."""

from __future__ import annotations

from typing import Any

import pytest
from support.relax_modules import (
    apply_passes,
    assert_rewrites,
    assert_same_results,
    assert_unchanged,
    operators_in,
    program_of,
)
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

import vamc_py.dialect  # noqa: F401
from vamc_py.passes.raise_attention import RaiseAttention


@I.ir_module
class Grouped:
    """Two key heads for four of q, repeated; a factor."""

    @R.function
    def main(
        q: R.Tensor((1, 4, "n", 8), "float32"),
        k: R.Tensor((1, 2, "t", 8), "float32"),
        v: R.Tensor((1, 2, "t", 8), "float32"),
        mask: R.Tensor((1, 1, "n", "t"), "float32"),
    ):
        R.func_attr({"vamc.inputs": 4})
        t = T.int64()
        with R.dataflow():
            k5 = R.broadcast_to(R.expand_dims(k, axis=[2]), R.shape([1, 2, 2, t, 8]))
            keys = R.reshape(k5, R.shape([1, 4, t, 8]))
            v5 = R.broadcast_to(R.expand_dims(v, axis=[2]), R.shape([1, 2, 2, t, 8]))
            values = R.reshape(v5, R.shape([1, 4, t, 8]))
            scores = R.matmul(q, R.permute_dims(keys, axes=[0, 1, 3, 2]), out_dtype="float32")
            masked = R.add(R.multiply(scores, R.const(0.25, "float32")), mask)
            out = R.matmul(R.nn.softmax(masked, axis=-1), values, out_dtype="float32")
            R.output(out)
        return out


@I.ir_module
class Raised:
    @R.function
    def main(
        q: R.Tensor((1, 4, "n", 8), "float32"),
        k: R.Tensor((1, 2, "t", 8), "float32"),
        v: R.Tensor((1, 2, "t", 8), "float32"),
        mask: R.Tensor((1, 1, "n", "t"), "float32"),
    ):
        R.func_attr({"vamc.inputs": 4})
        with R.dataflow():
            queries = R.permute_dims(q, axes=[0, 2, 1, 3])
            keys = R.permute_dims(k, axes=[0, 2, 1, 3])
            values = R.permute_dims(v, axes=[0, 2, 1, 3])
            attended = R.vamc.attention(queries, keys, values, mask, scale=0.25)
            out = R.permute_dims(attended, axes=[0, 2, 1, 3])
            R.output(out)
        return out


@I.ir_module
class Divided:
    """As many key heads as heads of q; a divisor; the mask comes first."""

    @R.function
    def main(
        q: R.Tensor((1, 2, "n", 8), "float32"),
        k: R.Tensor((1, 2, "t", 8), "float32"),
        v: R.Tensor((1, 2, "t", 8), "float32"),
        mask: R.Tensor((1, 1, "n", "t"), "float32"),
    ):
        R.func_attr({"vamc.inputs": 4})
        with R.dataflow():
            scores = R.matmul(q, R.permute_dims(k, axes=[0, 1, 3, 2]))
            masked = R.add(mask, R.divide(scores, R.const(4.0, "float32")))
            out = R.matmul(R.nn.softmax(masked, axis=3), v)
            R.output(out)
        return out


@I.ir_module
class DividedRaised:
    @R.function
    def main(
        q: R.Tensor((1, 2, "n", 8), "float32"),
        k: R.Tensor((1, 2, "t", 8), "float32"),
        v: R.Tensor((1, 2, "t", 8), "float32"),
        mask: R.Tensor((1, 1, "n", "t"), "float32"),
    ):
        R.func_attr({"vamc.inputs": 4})
        with R.dataflow():
            queries = R.permute_dims(q, axes=[0, 2, 1, 3])
            keys = R.permute_dims(k, axes=[0, 2, 1, 3])
            values = R.permute_dims(v, axes=[0, 2, 1, 3])
            attended = R.vamc.attention(queries, keys, values, mask, scale=0.25)
            out = R.permute_dims(attended, axes=[0, 2, 1, 3])
            R.output(out)
        return out


@I.ir_module
class Tiled:
    """The key heads in turn, 0 1 0 1 instead of 0 0 1 1: another function, which needs all four heads of k and v."""

    @R.function
    def main(
        q: R.Tensor((1, 4, "n", 8), "float32"),
        k: R.Tensor((1, 2, "t", 8), "float32"),
        v: R.Tensor((1, 2, "t", 8), "float32"),
        mask: R.Tensor((1, 1, "n", "t"), "float32"),
    ):
        R.func_attr({"vamc.inputs": 4})
        t = T.int64()
        with R.dataflow():
            k5 = R.broadcast_to(R.expand_dims(k, axis=[1]), R.shape([1, 2, 2, t, 8]))
            keys = R.reshape(k5, R.shape([1, 4, t, 8]))
            v5 = R.broadcast_to(R.expand_dims(v, axis=[1]), R.shape([1, 2, 2, t, 8]))
            values = R.reshape(v5, R.shape([1, 4, t, 8]))
            scores = R.matmul(q, R.permute_dims(keys, axes=[0, 1, 3, 2]))
            masked = R.add(R.multiply(scores, R.const(0.25, "float32")), mask)
            out = R.matmul(R.nn.softmax(masked, axis=-1), values)
            R.output(out)
        return out


@I.ir_module
class AlmostAttention:
    """A softmax over another axis, without a softmax, a scale that is computed, no mask, keys that are not transposed
    (with n = t = d), keys repeated and values tiled."""

    @R.function
    def main(
        q: R.Tensor((1, 2, 8, 8), "float32"),
        k: R.Tensor((1, 2, 8, 8), "float32"),
        v: R.Tensor((1, 2, 8, 8), "float32"),
        one: R.Tensor((1, 1, 8, 8), "float32"),
        mask: R.Tensor((1, 1, 8, 8), "float32"),
    ):
        R.func_attr({"vamc.inputs": 5})
        with R.dataflow():
            product = R.matmul(q, R.permute_dims(k, axes=[0, 1, 3, 2]))
            scores = R.multiply(product, R.const(0.25, "float32"))
            masked = R.add(scores, mask)
            over_queries = R.matmul(R.nn.softmax(masked, axis=2), v)
            unnormalized = R.matmul(R.exp(masked), v)
            computed_scale = R.matmul(R.nn.softmax(R.add(R.multiply(product, one), mask), axis=-1), v)
            unmasked = R.matmul(R.nn.softmax(scores, axis=-1), v)
            untransposed = R.multiply(R.matmul(q, k), R.const(0.25, "float32"))
            plain = R.matmul(R.nn.softmax(R.add(untransposed, mask), axis=-1), v)
            gv = (over_queries, unnormalized, computed_scale, unmasked, plain)
            R.output(gv)
        return gv


@I.ir_module
class MixedHeads:
    @R.function
    def main(
        q: R.Tensor((1, 4, 3, 8), "float32"),
        k: R.Tensor((1, 2, 3, 8), "float32"),
        v: R.Tensor((1, 2, 3, 8), "float32"),
        mask: R.Tensor((1, 1, 3, 3), "float32"),
    ):
        R.func_attr({"vamc.inputs": 4})
        with R.dataflow():
            k5 = R.broadcast_to(R.expand_dims(k, axis=[2]), R.shape([1, 2, 2, 3, 8]))
            keys = R.reshape(k5, R.shape([1, 4, 3, 8]))
            v5 = R.broadcast_to(R.expand_dims(v, axis=[1]), R.shape([1, 2, 2, 3, 8]))
            values = R.reshape(v5, R.shape([1, 4, 3, 8]))
            scores = R.matmul(q, R.permute_dims(keys, axes=[0, 1, 3, 2]))
            masked = R.add(R.multiply(scores, R.const(0.25, "float32")), mask)
            out = R.matmul(R.nn.softmax(masked, axis=-1), values)
            R.output(out)
        return out


@pytest.mark.parametrize(("before", "expected"), [(Grouped, Raised), (Divided, DividedRaised)])
def test_attention_is_raised(before: Any, expected: Any) -> None:
    assert_rewrites(RaiseAttention(), before, expected)


@pytest.mark.parametrize("module", [AlmostAttention, MixedHeads])
def test_what_is_no_attention_stays(module: Any) -> None:
    assert_unchanged(RaiseAttention(), module)


@pytest.mark.parametrize("module", [Grouped, Divided, Tiled])
def test_results_stay(module: Any) -> None:
    program = program_of(module)
    raised = apply_passes(program, RaiseAttention())
    assert operators_in(raised)["vamc.attention"] == 1
    assert_same_results(program, raised, {"n": 3, "t": 5})
