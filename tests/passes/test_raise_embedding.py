"""raise-embedding: rows of a weight or a constant table by integers, and nothing else."""

from __future__ import annotations

from support.relax_modules import apply_passes, assert_rewrites, assert_same_results, assert_unchanged, program_of
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

import vamc_py.dialect  # noqa: F401
from vamc_py.passes.raise_embedding import RaiseEmbedding


@I.ir_module
class Takes:
    """From a weight, from a constant, and from a constant that is cut to the length of the sequence."""

    @R.function
    def main(ids: R.Tensor((1, "n"), "int64"), past: R.Tensor(("p", 2), "float32"), w: R.Tensor((6, 2), "float32")):
        R.func_attr({"vamc.inputs": 2})
        n, p = T.int64(), T.int64()
        with R.dataflow():
            tokens = R.take(w, ids, axis=0, mode="fast")
            rows = R.take(R.const([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]], "float32"), ids, axis=0)
            cut = R.strided_slice(
                R.const([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]], "float32"),
                axes=[0],
                begin=[0],
                end=[n + p],
                strides=[1],
                assume_inbound=False,
            )
            turned = R.take(cut, ids, axis=0)
            gv = (tokens, rows, turned)
            R.output(gv)
        return gv


@I.ir_module
class Embeddings:
    @R.function
    def main(ids: R.Tensor((1, "n"), "int64"), past: R.Tensor(("p", 2), "float32"), w: R.Tensor((6, 2), "float32")):
        R.func_attr({"vamc.inputs": 2})
        with R.dataflow():
            tokens = R.vamc.embedding(ids, w)
            rows = R.vamc.embedding(ids, R.const([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]], "float32"))
            turned = R.vamc.embedding(ids, R.const([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]], "float32"))
            gv = (tokens, rows, turned)
            R.output(gv)
        return gv


@I.ir_module
class OtherTakes:
    """From an activation, along another axis, from a vector, from a table that begins later or leaves rows out."""

    @R.function
    def main(
        ids: R.Tensor((2,), "int64"),
        x: R.Tensor((6, 2), "float32"),
        w: R.Tensor((6, 2), "float32"),
        vector: R.Tensor((6,), "float32"),
    ):
        R.func_attr({"vamc.inputs": 2})
        with R.dataflow():
            activation = R.take(x, ids, axis=0)
            columns = R.take(w, ids, axis=1)
            elements = R.take(vector, ids, axis=0)
            later = R.take(R.strided_slice(w, axes=[0], begin=[1], end=[6]), ids, axis=0)
            every_second = R.take(R.strided_slice(w, axes=[0], begin=[0], end=[6], strides=[2]), ids, axis=0)
            narrow = R.take(R.strided_slice(w, axes=[1], begin=[0], end=[1]), ids, axis=0)
            gv = (activation, columns, elements, later, every_second, narrow)
            R.output(gv)
        return gv


def test_takes_become_embeddings() -> None:
    assert_rewrites(RaiseEmbedding(), Takes, Embeddings)


def test_other_takes_stay() -> None:
    assert_unchanged(RaiseEmbedding(), OtherTakes)


def test_results_stay() -> None:
    program = program_of(Takes)
    assert_same_results(program, apply_passes(program, RaiseEmbedding()), {"n": 3, "p": 1}, below=4)
