"""flatten-batch: [1, n, …] becomes [n, …], and what it does not know runs between two reshapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.relax_modules import (
    Compiled,
    apply_passes,
    assert_rewrites,
    assert_unchanged,
    operators_in,
    program_of,
    random_arguments,
)
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

import vamc_py.dialect  # noqa: F401
from vamc_py.passes.flatten_batch import FlattenBatch
from vamc_py.passes.simplify import Simplify
from vamc_py.pipeline.graph import Graph
from vamc_py.pipeline.program import Program


@I.ir_module
class Before:
    @R.function
    def main(
        tokens: R.Tensor(("n",), "int32"),
        table: R.Tensor((7, 8), "float32"),
        norm: R.Tensor((8,), "float32"),
        w: R.Tensor((8, 8), "float32"),
    ):
        n = T.int64()
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            ids = R.reshape(tokens, R.shape([1, n]))
            x = R.vamc.embedding(ids, table)
            y = R.vamc.rms_norm(x, norm, epsilon=1e-6)
            z = R.vamc.linear(y, w, bias=False, residual=False)
            out = R.add(x, z)
            R.output(out)
        return out


@I.ir_module
class Expected:
    @R.function
    def main(
        tokens: R.Tensor(("n",), "int32"),
        table: R.Tensor((7, 8), "float32"),
        norm: R.Tensor((8,), "float32"),
        w: R.Tensor((8, 8), "float32"),
    ):
        n = T.int64()
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            ids = R.reshape(tokens, R.shape([n]))
            x = R.vamc.embedding(ids, table)
            y = R.vamc.rms_norm(x, norm, epsilon=1e-6)
            z = R.vamc.linear(y, w, bias=False, residual=False)
            out = R.add(x, z)
            R.output(out)
        return out


def test_tokens_become_rows() -> None:
    assert_rewrites(FlattenBatch(), Before, Expected)


def assert_same_rows(module: Any) -> Program:
    """The flat function gives the rows that the function gave with its batch dimension; the flat one is returned."""
    before = program_of(module)
    after = apply_passes(before, FlattenBatch(), Simplify())
    for n in (1, 5):
        arguments = random_arguments(before, {"n": n})
        (left,), (right,) = Compiled(before)(*arguments), Compiled(after)(*arguments)
        assert left.shape == (1, *right.shape)
        np.testing.assert_allclose(left[0], right, rtol=1e-5, atol=1e-6)
    return after


def test_the_rows_keep_their_values() -> None:
    assert_same_rows(Before)


@I.ir_module
class Unknown:
    """Operators that flatten-batch does not know: twice in a row, on a tuple, and with several results."""

    @R.function
    def main(tokens: R.Tensor(("n",), "int32"), table: R.Tensor((7, 8), "float32")):
        n = T.int64()
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            ids = R.reshape(tokens, R.shape([1, n]))
            x = R.vamc.embedding(ids, table)
            once = R.nn.softmax(x, axis=2)
            twice = R.nn.softmax(once, axis=1)
            both = R.concat((twice, x), axis=2)
            parts = R.split(both, 2, axis=2)
            left = parts[0]
            right = parts[1]
            out = R.multiply(left, right)
            R.output(out)
        return out


def test_unknown_operators_run_once_with_their_batch_dimension() -> None:
    after = assert_same_rows(Unknown)
    counts = operators_in(after)
    assert counts["vamc.embedding"] == 1
    assert (counts["nn.softmax"], counts["concat"], counts["split"]) == (2, 1, 1)
    assert [len(call.ty.shape) for _, call in Graph(after.function).calls("relax.concat")] == [3]


@I.ir_module
class Broadcast:
    """Weights with dimensions of one: broadcast beside tokens, but not as the matrix of a linear layer."""

    @R.function
    def main(
        tokens: R.Tensor(("n",), "int32"),
        table: R.Tensor((7, 8), "float32"),
        shift: R.Tensor((1, 1, 8), "float32"),
        factor: R.Tensor((1, 8), "float32"),
        row: R.Tensor((1, 8), "float32"),
    ):
        n = T.int64()
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            ids = R.reshape(tokens, R.shape([1, n]))
            x = R.vamc.embedding(ids, table)
            shifted = R.add(shift, x)
            scaled = R.multiply(shifted, factor)
            out = R.vamc.linear(scaled, row, bias=False, residual=False)
            R.output(out)
        return out


def test_weights_with_dimensions_of_one() -> None:
    after = assert_same_rows(Broadcast)
    [(_, call)] = Graph(after.function).calls("relax.vamc.linear")
    assert [int(d) for d in call.args[1].ty.shape] == [1, 8]


@I.ir_module
class Heads:
    """Heads out of rows, turned by angles that have a batch dimension too, and back."""

    @R.function
    def main(
        tokens: R.Tensor(("n",), "int32"), table: R.Tensor((7, 8), "float32"), inv_freq: R.Tensor((2,), "float32")
    ):
        n = T.int64()
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            ids = R.reshape(tokens, R.shape([1, n]))
            angles = R.vamc.rotary_angles(ids, inv_freq, scaling=1.0)
            cos = angles[0]
            sin = angles[1]
            x = R.vamc.embedding(ids, table)
            heads = R.reshape(x, R.shape([1, n, 2, 4]))
            turned = R.vamc.rotary(heads, cos, sin)
            swapped = R.permute_dims(turned, axes=[0, 2, 1, 3])
            back = R.permute_dims(swapped, axes=[0, 2, 1, 3])
            rows = R.reshape(back, R.shape([1, n, 8]))
            R.output(rows)
        return rows


def test_heads_and_angles_become_flat_too() -> None:
    after = assert_same_rows(Heads)
    assert [len(var.ty.shape) for var, _ in Graph(after.function).calls("relax.vamc.rotary")] == [3]
    assert operators_in(after)["vamc.rotary_angles"] == 1


@I.ir_module
class WithoutBatch:
    @R.function
    def main(x: R.Tensor(("n", 8), "float32"), w: R.Tensor((8, 8), "float32")):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            y = R.vamc.linear(x, w, bias=False, residual=False)
            out = R.nn.softmax(y, axis=1)
            R.output(out)
        return out


@I.ir_module
class TwoSequences:
    @R.function
    def main(tokens: R.Tensor((2, "n"), "int32"), table: R.Tensor((7, 8), "float32")):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            x = R.vamc.embedding(tokens, table)
            out = R.add(x, x)
            R.output(out)
        return out


@pytest.mark.parametrize("module", [WithoutBatch, TwoSequences])
def test_nothing_happens_without_a_batch_of_one(module: Any) -> None:
    assert_unchanged(FlattenBatch(), module)
