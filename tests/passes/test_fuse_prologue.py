"""fuse-prologue: a norm or SwiGLU becomes the way in which the linear layer behind it reads its input."""

from __future__ import annotations

from typing import Any

import pytest
from support.checkpoints import model_config
from support.relax_modules import (
    apply_passes,
    assert_rewrites,
    assert_same_results,
    assert_unchanged,
    operators_in,
    program_of,
    traced_program,
)
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from vamc_py.passes.cast_weights import CastWeights
from vamc_py.passes.fuse_prologue import FusePrologue
from vamc_py.passes.fuse_residual import FuseResidual
from vamc_py.passes.merge_linear import MergeLinear
from vamc_py.passes.quantize_int8 import QuantizeInt8
from vamc_py.pipeline.base import Pass
from vamc_py.pipeline.default import Numbers, default_pipeline


@I.ir_module
class Before:
    """The second half of a layer, then the final norm and lm_head over the wanted rows."""

    @R.function
    def main(
        x: R.Tensor(("n", 8), "float32"),
        rows: R.Tensor(("m",), "int32"),
        norm: R.Tensor((8,), "float32"),
        gate_up: R.Tensor((12, 8), "float32"),
        bias: R.Tensor((12,), "float32"),
        down: R.Tensor((8, 6), "float32"),
        last: R.Tensor((8,), "float32"),
        head: R.Tensor((9, 8), "float32"),
    ):
        R.func_attr({"vamc.inputs": 2, "vamc.caches": 0})
        with R.dataflow():
            normed = R.vamc.rms_norm(x, norm, epsilon=0.25)
            merged = R.vamc.linear(normed, gate_up, bias, bias=True, residual=False)
            gated = R.vamc.swiglu(merged)
            hidden = R.vamc.linear(gated, down, x, bias=False, residual=True)
            wanted = R.vamc.select_rows(hidden, rows)
            final = R.vamc.rms_norm(wanted, last, epsilon=0.5)
            logits = R.vamc.linear(final, head, bias=False, residual=False)
            R.output(logits)
        return logits


@I.ir_module
class Expected:
    @R.function
    def main(
        x: R.Tensor(("n", 8), "float32"),
        rows: R.Tensor(("m",), "int32"),
        norm: R.Tensor((8,), "float32"),
        gate_up: R.Tensor((12, 8), "float32"),
        bias: R.Tensor((12,), "float32"),
        down: R.Tensor((8, 6), "float32"),
        last: R.Tensor((8,), "float32"),
        head: R.Tensor((9, 8), "float32"),
    ):
        R.func_attr({"vamc.inputs": 2, "vamc.caches": 0})
        with R.dataflow():
            merged = R.vamc.linear(x, gate_up, bias, norm, bias=True, residual=False, prologue="rms_norm", epsilon=0.25)
            hidden = R.vamc.linear(merged, down, x, bias=False, residual=True, prologue="swiglu")
            wanted = R.vamc.select_rows(hidden, rows)
            logits = R.vamc.linear(wanted, head, last, bias=False, residual=False, prologue="rms_norm", epsilon=0.5)
            R.output(logits)
        return logits


def test_norms_and_swiglu() -> None:
    assert_rewrites(FusePrologue(), Before, Expected)


def test_twice_is_once() -> None:
    assert_unchanged(FusePrologue(), Expected)


def test_the_values_stay() -> None:
    before = program_of(Before)
    assert_same_results(before, apply_passes(before, FusePrologue()), {"n": 5, "m": 2})


@pytest.mark.parametrize("later", [QuantizeInt8(), CastWeights("float16"), FuseResidual()])
def test_later_passes_keep_the_prologue(later: Pass) -> None:
    """In both orders the program is the same, but for the order of parameters that a pass adds."""
    first, second = (
        apply_passes(program_of(Before), *order) for order in ((FusePrologue(), later), (later, FusePrologue()))
    )
    assert operators_in(first) == operators_in(second) == {"vamc.linear": 3, "vamc.select_rows": 1}
    assert [p.name for p in first.function.params] == [p.name for p in second.function.params]
    assert first.plan == second.plan


@I.ir_module
class AddedAfterwards:
    @R.function
    def main(x: R.Tensor(("n", 8), "float32"), norm: R.Tensor((8,), "float32"), a: R.Tensor((8, 8), "float32")):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            product = R.vamc.linear(x, a, norm, bias=False, residual=False, prologue="rms_norm", epsilon=0.25)
            out = R.add(x, product)
            R.output(out)
        return out


@I.ir_module
class AddedByTheLayer:
    """The norm stays the last argument."""

    @R.function
    def main(x: R.Tensor(("n", 8), "float32"), norm: R.Tensor((8,), "float32"), a: R.Tensor((8, 8), "float32")):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            out = R.vamc.linear(x, a, x, norm, bias=False, residual=True, prologue="rms_norm", epsilon=0.25)
            R.output(out)
        return out


def test_fuse_residual_puts_its_argument_before_the_norm() -> None:
    assert_rewrites(FuseResidual(), AddedAfterwards, AddedByTheLayer)


@I.ir_module
class TwoUsers:
    """q, k and v of a model whose projections were not merged."""

    @R.function
    def main(
        x: R.Tensor(("n", 8), "float32"),
        norm: R.Tensor((8,), "float32"),
        a: R.Tensor((8, 8), "float32"),
        b: R.Tensor((8, 8), "float32"),
    ):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            normed = R.vamc.rms_norm(x, norm, epsilon=0.25)
            q = R.vamc.linear(normed, a, bias=False, residual=False)
            k = R.vamc.linear(normed, b, bias=False, residual=False)
            out = R.add(q, k)
            R.output(out)
        return out


@I.ir_module
class AlsoTheResidual:
    @R.function
    def main(x: R.Tensor(("n", 8), "float32"), norm: R.Tensor((8,), "float32"), a: R.Tensor((8, 8), "float32")):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            normed = R.vamc.rms_norm(x, norm, epsilon=0.25)
            out = R.vamc.linear(normed, a, normed, bias=False, residual=True)
            R.output(out)
        return out


@I.ir_module
class NormIsAResult:
    @R.function
    def main(x: R.Tensor(("n", 8), "float32"), norm: R.Tensor((8,), "float32"), a: R.Tensor((8, 8), "float32")):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            normed = R.vamc.rms_norm(x, norm, epsilon=0.25)
            product = R.vamc.linear(normed, a, bias=False, residual=False)
            out = (product, normed)
            R.output(out)
        return out


@I.ir_module
class NormOfHeads:
    """A norm over the four elements of a head, before a layer over all eight."""

    @R.function
    def main(x: R.Tensor(("n", 2, 4), "float32"), norm: R.Tensor((4,), "float32"), a: R.Tensor((8, 8), "float32")):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        n = T.int64()
        with R.dataflow():
            normed = R.vamc.rms_norm(x, norm, epsilon=0.25)
            rows = R.reshape(normed, R.shape([n, 8]))
            out = R.vamc.linear(rows, a, bias=False, residual=False)
            R.output(out)
        return out


@I.ir_module
class SwigluOfTwo:
    """gate and up come from two products."""

    @R.function
    def main(
        gate: R.Tensor(("n", 8), "float32"),
        up: R.Tensor(("n", 8), "float32"),
        a: R.Tensor((8, 8), "float32"),
    ):
        R.func_attr({"vamc.inputs": 2, "vamc.caches": 0})
        with R.dataflow():
            gated = R.vamc.swiglu(gate, up)
            out = R.vamc.linear(gated, a, bias=False, residual=False)
            R.output(out)
        return out


@I.ir_module
class OnlyTheResidualIsNormed:
    @R.function
    def main(x: R.Tensor(("n", 8), "float32"), norm: R.Tensor((8,), "float32"), a: R.Tensor((8, 8), "float32")):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            normed = R.vamc.rms_norm(x, norm, epsilon=0.25)
            out = R.vamc.linear(x, a, normed, bias=False, residual=True)
            R.output(out)
        return out


@I.ir_module
class NormBehindAPrologue:
    @R.function
    def main(x: R.Tensor(("n", 16), "float32"), norm: R.Tensor((16,), "float32"), a: R.Tensor((8, 8), "float32")):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            normed = R.vamc.rms_norm(x, norm, epsilon=0.25)
            out = R.vamc.linear(normed, a, bias=False, residual=False, prologue="swiglu")
            R.output(out)
        return out


@pytest.mark.parametrize(
    "module",
    [
        TwoUsers,
        AlsoTheResidual,
        NormIsAResult,
        NormOfHeads,
        SwigluOfTwo,
        OnlyTheResidualIsNormed,
        NormBehindAPrologue,
    ],
)
def test_does_not_fire(module: Any) -> None:
    assert_unchanged(FusePrologue(), module)


def test_merge_linear_leaves_layers_with_a_prologue_alone() -> None:
    assert_unchanged(MergeLinear(), TwoPrologues)


@I.ir_module
class TwoPrologues:
    @R.function
    def main(x: R.Tensor(("n", 8), "float32"), a: R.Tensor((8, 4), "float32"), b: R.Tensor((8, 4), "float32")):
        R.func_attr({"vamc.inputs": 1, "vamc.caches": 0})
        with R.dataflow():
            q = R.vamc.linear(x, a, bias=False, residual=False, prologue="swiglu")
            k = R.vamc.linear(x, b, bias=False, residual=False, prologue="swiglu")
            out = R.add(q, k)
            R.output(out)
        return out


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
def test_nothing_but_products_attention_and_the_rows_is_left_of_a_model(architecture: str) -> None:
    model = model_config(architecture=architecture, layers=2)
    passes = [one for one in default_pipeline(Numbers("fp32")) if one.stage != "lower"]
    program = apply_passes(traced_program(model), *passes)
    assert operators_in(program) == {
        "vamc.embedding": 1,
        "vamc.rotary_angles": 1,
        "vamc.linear": 2 * 4 + 1,
        "vamc.qkv_attention": 2,
        "vamc.select_rows": 2,
    }
