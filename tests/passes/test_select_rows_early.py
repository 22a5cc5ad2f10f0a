"""select-rows-early: what computes row by row behind the last attention does so for the wanted rows."""

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

from vamc_py.passes.select_rows_early import SelectRowsEarly
from vamc_py.pipeline.default import Numbers, default_pipeline


@I.ir_module
class Before:
    """A layer from the attention's result on, with what later passes fuse and what they do not."""

    @R.function
    def main(
        attended: R.Tensor(("n", 6), "float32"),
        x: R.Tensor(("n", 8), "float32"),
        rows: R.Tensor(("m",), "int32"),
        o: R.Tensor((8, 6), "float32"),
        norm: R.Tensor((8,), "float32"),
        gate_up: R.Tensor((12, 8), "float32"),
        down: R.Tensor((8, 6), "float32"),
    ):
        R.func_attr({"vamc.inputs": 3, "vamc.caches": 0})
        with R.dataflow():
            middle = R.vamc.linear(attended, o, x, bias=False, residual=True)
            normed = R.vamc.rms_norm(middle, norm, epsilon=0.25)
            merged = R.vamc.linear(normed, gate_up, bias=False, residual=False)
            gated = R.vamc.swiglu(merged)
            product = R.vamc.linear(gated, down, bias=False, residual=False)
            hidden = R.add(R.multiply(product, R.const(2.0, "float32")), middle)
            out = R.vamc.select_rows(hidden, rows)
            R.output(out)
        return out


@I.ir_module
class Expected:
    @R.function
    def main(
        attended: R.Tensor(("n", 6), "float32"),
        x: R.Tensor(("n", 8), "float32"),
        rows: R.Tensor(("m",), "int32"),
        o: R.Tensor((8, 6), "float32"),
        norm: R.Tensor((8,), "float32"),
        gate_up: R.Tensor((12, 8), "float32"),
        down: R.Tensor((8, 6), "float32"),
    ):
        R.func_attr({"vamc.inputs": 3, "vamc.caches": 0})
        with R.dataflow():
            wanted_attended = R.vamc.select_rows(attended, rows)
            wanted_x = R.vamc.select_rows(x, rows)
            middle = R.vamc.linear(wanted_attended, o, wanted_x, bias=False, residual=True)
            normed = R.vamc.rms_norm(middle, norm, epsilon=0.25)
            merged = R.vamc.linear(normed, gate_up, bias=False, residual=False)
            gated = R.vamc.swiglu(merged)
            product = R.vamc.linear(gated, down, bias=False, residual=False)
            doubled = R.multiply(product, R.const(2.0, "float32"))
            out = R.add(doubled, middle)
            R.output(out)
        return out


def test_the_end_of_a_layer() -> None:
    assert_rewrites(SelectRowsEarly(), Before, Expected)


def test_twice_is_once() -> None:
    assert_unchanged(SelectRowsEarly(), Expected)


@pytest.mark.parametrize("wanted", [1, 2, 5])
def test_the_values_stay(wanted: int) -> None:
    before = program_of(Before)
    assert_same_results(before, apply_passes(before, SelectRowsEarly()), {"n": 5, "m": wanted})


@I.ir_module
class ReadByAll:
    """The sum over all tokens needs every row of the product; only what is behind it may be narrowed."""

    @R.function
    def main(
        x: R.Tensor(("n", 8), "float32"),
        rows: R.Tensor(("m",), "int32"),
        a: R.Tensor((8, 8), "float32"),
        b: R.Tensor((8, 8), "float32"),
    ):
        R.func_attr({"vamc.inputs": 2, "vamc.caches": 0})
        with R.dataflow():
            product = R.vamc.linear(x, a, bias=False, residual=False)
            total = R.sum(product, axis=[0], keepdims=True)
            out = R.add(R.vamc.select_rows(R.vamc.linear(product, b, bias=False, residual=False), rows), total)
            R.output(out)
        return out


@I.ir_module
class ReadByAllNarrowed:
    @R.function
    def main(
        x: R.Tensor(("n", 8), "float32"),
        rows: R.Tensor(("m",), "int32"),
        a: R.Tensor((8, 8), "float32"),
        b: R.Tensor((8, 8), "float32"),
    ):
        R.func_attr({"vamc.inputs": 2, "vamc.caches": 0})
        with R.dataflow():
            product = R.vamc.linear(x, a, bias=False, residual=False)
            wanted = R.vamc.select_rows(product, rows)
            second = R.vamc.linear(wanted, b, bias=False, residual=False)
            total = R.sum(product, axis=[0], keepdims=True)
            out = R.add(second, total)
            R.output(out)
        return out


def test_what_others_read_stays_whole() -> None:
    assert_rewrites(SelectRowsEarly(), ReadByAll, ReadByAllNarrowed)


@I.ir_module
class NoLinear:
    """Only the norm is behind the last operator that knows other rows: selecting before it saves next to nothing."""

    @R.function
    def main(x: R.Tensor(("n", 8), "float32"), rows: R.Tensor(("m",), "int32"), norm: R.Tensor((8,), "float32")):
        R.func_attr({"vamc.inputs": 2, "vamc.caches": 0})
        with R.dataflow():
            out = R.vamc.select_rows(R.vamc.rms_norm(x, norm, epsilon=0.25), rows)
            R.output(out)
        return out


@I.ir_module
class TokensMixed:
    """The running sum adds rows before a row to it: the product behind it is narrowed, not the one before."""

    @R.function
    def main(x: R.Tensor(("n", 8), "float32"), rows: R.Tensor(("m",), "int32"), a: R.Tensor((8, 8), "float32")):
        R.func_attr({"vamc.inputs": 2, "vamc.caches": 0})
        with R.dataflow():
            sums = R.cumsum(R.vamc.linear(x, a, bias=False, residual=False), axis=0)
            out = R.vamc.select_rows(sums, rows)
            R.output(out)
        return out


@I.ir_module
class KnownLength:
    """With 8 tokens in a static shape, rows cannot be told from features."""

    @R.function
    def main(x: R.Tensor((8, 8), "float32"), rows: R.Tensor(("m",), "int32"), a: R.Tensor((8, 8), "float32")):
        R.func_attr({"vamc.inputs": 2, "vamc.caches": 0})
        with R.dataflow():
            out = R.vamc.select_rows(R.vamc.linear(x, a, bias=False, residual=False), rows)
            R.output(out)
        return out


@I.ir_module
class WeightsOfTheTokens:
    """A product with a matrix of as many rows as there are tokens needs all of these."""

    @R.function
    def main(x: R.Tensor(("n", 8), "float32"), rows: R.Tensor(("m",), "int32"), other: R.Tensor(("n", 8), "float32")):
        R.func_attr({"vamc.inputs": 3, "vamc.caches": 0})
        with R.dataflow():
            out = R.vamc.select_rows(R.vamc.linear(x, other, bias=False, residual=False), rows)
            R.output(out)
        return out


@pytest.mark.parametrize("module", [NoLinear, TokensMixed, KnownLength, WeightsOfTheTokens])
def test_what_stays(module: Any) -> None:
    assert_unchanged(SelectRowsEarly(), module)


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
def test_a_model_selects_behind_its_last_attention(architecture: str) -> None:
    passes = [one for one in default_pipeline(Numbers("fp32")) if one.stage != "lower"]
    program = apply_passes(traced_program(model_config(architecture=architecture, layers=2)), *passes)
    assert operators_in(program)["vamc.select_rows"] == 2  # what the attention gives, and the residual stream
    last = [line.strip() for line in program.module.script().splitlines() if "R.vamc." in line][-6:]
    assert ["select_rows" in line for line in last] == [True, True, False, False, False, False]
