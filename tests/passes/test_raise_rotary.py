"""raise-rotary: angles from positions, the rotation of pairs (i, i + d/2), and nothing that is close to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.relax_modules import (
    Compiled,
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
from vamc_py.passes.raise_rotary import RaiseRotary
from vamc_py.passes.simplify import Simplify


@I.ir_module
class Rotations:
    """q's halves are slices, k's the parts of a split; the operands are in another order."""

    @R.function
    def main(
        q: R.Tensor((1, 4, "n", 6), "float32"),
        k: R.Tensor((1, 2, "n", 6), "float32"),
        cos: R.Tensor((1, "n", 6), "float32"),
        sin: R.Tensor((1, 1, "n", 6), "float32"),
    ):
        R.func_attr({"vamc.inputs": 4})
        with R.dataflow():
            c = R.expand_dims(cos, axis=[1])
            first = R.strided_slice(q, axes=[3], begin=[0], end=[3])
            second = R.strided_slice(q, axes=[3], begin=[3], end=[9223372036854775807])
            turned_q = R.concat((R.negative(second), first), axis=-1)
            q_out = R.add(R.multiply(q, c), R.multiply(turned_q, sin))
            halves = R.split(k, 2, axis=-1)
            turned_k = R.concat((R.negative(halves[1]), halves[0]), axis=3)
            k_out = R.add(R.multiply(sin, turned_k), R.multiply(c, k))
            gv = (q_out, k_out)
            R.output(gv)
        return gv


@I.ir_module
class Rotated:
    @R.function
    def main(
        q: R.Tensor((1, 4, "n", 6), "float32"),
        k: R.Tensor((1, 2, "n", 6), "float32"),
        cos: R.Tensor((1, "n", 6), "float32"),
        sin: R.Tensor((1, 1, "n", 6), "float32"),
    ):
        R.func_attr({"vamc.inputs": 4})
        n = T.int64()
        with R.dataflow():
            q_tokens = R.permute_dims(q, axes=[0, 2, 1, 3])
            q_rows = R.reshape(sin, R.shape([1, n, 6]))
            q_turned = R.vamc.rotary(q_tokens, cos, q_rows)
            q_out = R.permute_dims(q_turned, axes=[0, 2, 1, 3])
            k_tokens = R.permute_dims(k, axes=[0, 2, 1, 3])
            k_rows = R.reshape(sin, R.shape([1, n, 6]))
            k_turned = R.vamc.rotary(k_tokens, cos, k_rows)
            k_out = R.permute_dims(k_turned, axes=[0, 2, 1, 3])
            gv = (q_out, k_out)
            R.output(gv)
        return gv


@I.ir_module
class AlmostRotations:
    """Halves exchanged, the wrong half negated, unequal parts, pairs of neighbours, another value turned, another axis,
    a cosine for each head, a difference."""

    @R.function
    def main(
        q: R.Tensor((1, 4, "n", 4), "float32"),
        other: R.Tensor((1, 4, "n", 4), "float32"),
        cos: R.Tensor((1, 1, "n", 4), "float32"),
        sin: R.Tensor((1, 1, "n", 4), "float32"),
        wide: R.Tensor((1, 4, "n", 4), "float32"),
    ):
        R.func_attr({"vamc.inputs": 5})
        with R.dataflow():
            straight = R.multiply(q, cos)
            first = R.strided_slice(q, axes=[3], begin=[0], end=[2])
            second = R.strided_slice(q, axes=[3], begin=[2], end=[4])
            exchanged = R.add(straight, R.multiply(R.concat((first, R.negative(second)), axis=-1), sin))
            backwards = R.add(straight, R.multiply(R.concat((R.negative(first), second), axis=-1), sin))
            parts = R.split(q, [1], axis=-1)
            unequal = R.add(straight, R.multiply(R.concat((R.negative(parts[1]), parts[0]), axis=-1), sin))
            even = R.strided_slice(q, axes=[3], begin=[0], end=[4], strides=[2])
            odd = R.strided_slice(q, axes=[3], begin=[1], end=[4], strides=[2])
            neighbours = R.add(straight, R.multiply(R.concat((R.negative(odd), even), axis=-1), sin))
            halves = R.split(other, 2, axis=-1)
            mixed = R.add(straight, R.multiply(R.concat((R.negative(halves[1]), halves[0]), axis=-1), sin))
            heads = R.split(q, 2, axis=1)
            another = R.add(straight, R.multiply(R.concat((R.negative(heads[1]), heads[0]), axis=1), sin))
            right = R.concat((R.negative(second), first), axis=-1)
            by_head = R.add(R.multiply(q, wide), R.multiply(right, wide))
            difference = R.subtract(straight, R.multiply(right, sin))
            gv = (exchanged, backwards, unequal, neighbours, mixed, another, by_head, difference)
            R.output(gv)
        return gv


@I.ir_module
class Angles:
    """As our models write them, with YaRN's factor; a second cosine of the same angles without it."""

    @R.function
    def main(positions: R.Tensor((1, "n"), "int64")):
        R.func_attr({"vamc.inputs": 1})
        with R.dataflow():
            column = R.astype(R.expand_dims(positions, axis=[1, 3]), "float32")
            half = R.multiply(column, R.const([1.0, 0.5], "float32"))
            angles = R.concat((half, half), axis=-1)
            cos = R.multiply(R.cos(angles), R.const(1.25, "float32"))
            sin = R.multiply(R.const(1.25, "float32"), R.sin(angles))
            plain = R.cos(angles)
            gv = (cos, sin, plain)
            R.output(gv)
        return gv


@I.ir_module
class AnglesRaised:
    @R.function
    def main(positions: R.Tensor((1, "n"), "int64")):
        R.func_attr({"vamc.inputs": 1})
        n = T.int64()
        with R.dataflow():
            scaled = R.vamc.rotary_angles(positions, R.const([1.0, 0.5], "float32"), scaling=1.25)
            scaled_cos = scaled[0]
            cos = R.reshape(scaled_cos, R.shape([1, 1, n, 4]))
            scaled_sin = scaled[1]
            sin = R.reshape(scaled_sin, R.shape([1, 1, n, 4]))
            unscaled = R.vamc.rotary_angles(positions, R.const([1.0, 0.5], "float32"), scaling=1.0)
            unscaled_cos = unscaled[0]
            plain = R.reshape(unscaled_cos, R.shape([1, 1, n, 4]))
            gv = (cos, sin, plain)
            R.output(gv)
        return gv


@I.ir_module
class AnglesByMatmul:
    """As transformers writes them: a column of frequencies times a row of positions, transposed."""

    @R.function
    def main(positions: R.Tensor((1, "n"), "int64")):
        R.func_attr({"vamc.inputs": 1})
        with R.dataflow():
            row = R.astype(R.expand_dims(positions, axis=[1]), "float32")
            column = R.broadcast_to(R.const([[[1.0], [0.5]]], "float32"), R.shape([1, 2, 1]))
            half = R.permute_dims(R.matmul(column, row), axes=[0, 2, 1])
            angles = R.concat((half, half), axis=2)
            cos = R.cos(angles)
            sin = R.sin(angles)
            gv = (cos, sin)
            R.output(gv)
        return gv


@I.ir_module
class AnglesByMatmulRaised:
    @R.function
    def main(positions: R.Tensor((1, "n"), "int64")):
        R.func_attr({"vamc.inputs": 1})
        with R.dataflow():
            angles = R.vamc.rotary_angles(positions, R.const([1.0, 0.5], "float32"), scaling=1.0)
            cos = angles[0]
            sin = angles[1]
            gv = (cos, sin)
            R.output(gv)
        return gv


@I.ir_module
class AlmostAngles:
    """Two different halves, positions in half precision or floating from the start, no frequencies, angles by head."""

    @R.function
    def main(positions: R.Tensor((1, "n"), "int64"), times: R.Tensor((1, "n"), "float32")):
        R.func_attr({"vamc.inputs": 2})
        n = T.int64()
        with R.dataflow():
            column = R.astype(R.expand_dims(positions, axis=[2]), "float32")
            half = R.multiply(column, R.const([1.0, 0.5], "float32"))
            other = R.multiply(column, R.const([1.0, 0.25], "float32"))
            unequal = R.cos(R.concat((half, other), axis=-1))
            rounded = R.astype(R.astype(R.expand_dims(positions, axis=[2]), "float16"), "float32")
            coarse = R.multiply(rounded, R.const([1.0, 0.5], "float32"))
            half_precision = R.cos(R.concat((coarse, coarse), axis=-1))
            moments = R.multiply(R.expand_dims(times, axis=[2]), R.const([1.0, 0.5], "float32"))
            floating = R.sin(R.concat((moments, moments), axis=-1))
            single = R.cos(half)
            doubled = R.multiply(column, R.expand_dims(times, axis=[2]))
            without = R.cos(R.concat((doubled, doubled), axis=-1))
            heads = R.broadcast_to(R.expand_dims(half, axis=[1]), R.shape([1, 3, n, 2]))
            by_head = R.cos(R.concat((heads, heads), axis=-1))
            gv = (unequal, half_precision, floating, single, without, by_head)
            R.output(gv)
        return gv


def test_rotations_are_raised() -> None:
    assert_rewrites(RaiseRotary(), Rotations, Rotated)


def test_what_is_no_rotation_stays() -> None:
    assert_unchanged(RaiseRotary(), AlmostRotations)


def test_angles_are_raised() -> None:
    assert_rewrites(RaiseRotary(), Angles, AnglesRaised)


def test_angles_by_matmul_are_raised() -> None:
    program = apply_passes(program_of(AnglesByMatmul), RaiseRotary(), Simplify())
    assert_rewrites(Simplify(), program.module, AnglesByMatmulRaised)


def test_what_are_no_angles_stays() -> None:
    assert_unchanged(RaiseRotary(), AlmostAngles)


@pytest.mark.parametrize("module", [Rotations, Angles, AnglesByMatmul])
def test_results_stay(module: Any) -> None:
    program = program_of(module)
    assert_same_results(program, apply_passes(program, RaiseRotary()), {"n": 3}, below=40)


def test_angles_of_far_positions() -> None:
    program = apply_passes(program_of(AnglesByMatmul), RaiseRotary())
    assert operators_in(program) == {"vamc.rotary_angles": 1, "reshape": 2}
    positions = np.array([[0, 1, 4095, 131071]])
    angles = positions[..., None] * np.array([1.0, 0.5, 1.0, 0.5])
    cos, sin = Compiled(program)(positions)
    np.testing.assert_allclose(cos, np.cos(angles), atol=1e-5)
    np.testing.assert_allclose(sin, np.sin(angles), atol=1e-5)
