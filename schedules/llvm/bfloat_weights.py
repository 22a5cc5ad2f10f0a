"""Weights of each format as the pairs of bfloat16 that vdpbf16ps takes: [columns / 2][64] of a panel in a workspace."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from tvm.script import tirx as T

from . import bfloat, simd
from .gemm_float8 import float8_scale, widen_float8
from .gemm_groups import GroupedWeight
from .layout import OCTET, PANEL, QUAD, ZERO_POINT
from .simd import BYTES, LANES, Expr


class Weights(ABC):
    """Packed weights, read in steps of four columns."""

    lines: int
    """Cache lines in a step of a panel."""
    scaled: bool
    """Whether the sums are to be multiplied by the scale of their output feature."""

    def __init__(self, packed: Any, columns: int) -> None:
        self.packed, self.columns = packed, columns
        self.steps = -(-columns // QUAD)

    @abstractmethod
    def convert(self, panel: Expr, start: Expr, steps: Expr, pairs: Any) -> None:
        """Emit pairs int32[2 * steps, 64] = the pairs of columns of a panel as bfloat16, from the step `start` on, zero
        beyond the last column."""

    @abstractmethod
    def prefetch(self, panel: Expr, step: Expr, line: Expr) -> None:
        """Emit the prefetch of a line of a step, which may lie in the next panel or beyond the weights' end."""


class Int8Weights(Weights):
    """[panel][step][4][16][4], w + 128."""

    lines = PANEL * QUAD // BYTES
    scaled = True

    def convert(self, panel: Expr, start: Expr, steps: Expr, pairs: Any) -> None:
        with T.serial(0, steps) as step:
            for v in range(PANEL // LANES):
                quads = simd.bits(simd.load(self.packed, panel, start + step, v, 0, 0, count=BYTES), "uint32x16")
                for half, pair in enumerate(widen_quads(quads)):
                    simd.store(pairs, pair, step * 2 + half, v * LANES)

    def prefetch(self, panel: Expr, step: Expr, line: Expr) -> None:
        simd.prefetch(self.packed, panel, step, line, 0, 0)


class ColumnWeights(Weights):
    """[panel][column][64]: floats, a column of the panel after the other."""

    scaled = False

    def convert(self, panel: Expr, start: Expr, steps: Expr, pairs: Any) -> None:
        whole = T.min(steps, self.columns // QUAD - start)
        with T.serial(0, whole * 2) as pair:
            self._store_pair(panel, start * QUAD + pair * 2, 2, pairs, pair)
        if rest := self.columns % QUAD:
            with T.If(whole < steps), T.Then():
                for half in range(2):
                    column = self.columns - rest + half * 2
                    self._store_pair(panel, column, min(rest - half * 2, 2), pairs, whole * 2 + half)

    def _store_pair(self, panel: Expr, column: Expr | int, columns: int, pairs: Any, pair: Expr) -> None:
        """Emit a pair with those of its two columns that there are: `columns`, which may be below 1."""
        for first in range(0, PANEL, LANES):
            simd.store(pairs, self._pair(panel, column, columns, first), pair, first)

    @abstractmethod
    def _pair(self, panel: Expr, column: Expr | int, columns: int, first: int) -> Expr:
        """int32x16: two columns of 16 rows from `first` on, zeros for those beyond `columns`."""


class Bfloat16Weights(ColumnWeights):
    """The bits as uint16."""

    lines = PANEL * QUAD * 2 // BYTES

    def _pair(self, panel: Expr, column: Expr | int, columns: int, first: int) -> Expr:
        value = T.broadcast(T.uint32(0), LANES)
        for half in range(columns):
            bits = T.cast(simd.load(self.packed, panel, column + half, first), "uint32x16")
            value = value | T.shift_left(bits, T.broadcast(T.uint32(16 * half), LANES))
        return simd.bits(value, "int32x16")

    def prefetch(self, panel: Expr, step: Expr, line: Expr) -> None:
        simd.prefetch(self.packed, panel, step * QUAD + line // 2, line % 2 * (BYTES // 2))


class GroupedWeights(Weights):
    """Integers of four or eight bits with scales of groups: (value - zero) * scale, rounded to bfloat16."""

    scaled = False

    def __init__(self, weight: GroupedWeight) -> None:
        super().__init__(weight.values, weight.columns)
        self._weight = weight
        self.lines = PANEL * weight.bits * QUAD // (8 * BYTES)

    def convert(self, panel: Expr, start: Expr, steps: Expr, pairs: Any) -> None:
        weight = self._weight
        with T.serial(0, steps) as step:
            at = T.bind(start + step)
            group = T.bind(at * QUAD // weight.group)
            for v in range(PANEL // LANES):
                words = T.bind(self._words(panel, at, v))
                scale = T.bind(weight.scales(panel, group, v))
                zero = T.bind(T.cast(weight.zeros(panel, group, v), "float32x16"))

                def column(byte: int, words: Expr = words, scale: Expr = scale, zero: Expr = zero) -> Expr:
                    shift = T.broadcast(T.uint32(8 * byte), LANES)
                    value = T.shift_right(words, shift) & T.broadcast(T.uint32(0xFF), LANES)
                    return (T.cast(simd.bits(value, "int32x16"), "float32x16") - zero) * scale

                for half in range(2):
                    simd.store(
                        pairs, bfloat.to_pairs(column(2 * half), column(2 * half + 1)), step * 2 + half, v * LANES
                    )

    def _words(self, panel: Expr, step: Expr, vector: int) -> Expr:
        """uint32x16: the unsigned values of four columns in the bytes of each row."""
        if self._weight.bits == 8:
            return simd.bits(simd.load(self.packed, panel, step, vector, 0, 0, count=BYTES), "uint32x16")
        octet = simd.bits(simd.load(self.packed, panel, step // 2, vector, 0, 0, count=BYTES), "uint32x16")
        shift = T.broadcast(T.cast(step % 2 * 4, "uint32"), LANES)
        return T.shift_right(octet, shift) & T.broadcast(T.uint32(0x0F0F0F0F), LANES)

    def prefetch(self, panel: Expr, step: Expr, line: Expr) -> None:
        if self._weight.bits == 8:
            simd.prefetch(self.packed, panel, step, line, 0, 0)
        else:
            simd.prefetch(self.packed, panel, step // 2, step % 2 * (OCTET // QUAD) + line, 0, 0)


class Float8Weights(ColumnWeights):
    """The bits as uint8, with scales of groups: value * scale, rounded to bfloat16."""

    lines = PANEL * QUAD // BYTES

    def __init__(self, packed: Any, scale: Any, columns: int, group: int) -> None:
        super().__init__(packed, columns)
        self._scale, self._group = scale, group

    def _pair(self, panel: Expr, column: Expr | int, columns: int, first: int) -> Expr:
        def value(half: int) -> Expr:
            if half >= columns:
                return simd.splat(0.0)
            scale = float8_scale(self._scale, panel, (column + half) // self._group, first // LANES)
            return widen_float8(simd.load(self.packed, panel, column + half, first)) * scale

        return bfloat.to_pairs(value(0), value(1))

    def prefetch(self, panel: Expr, step: Expr, line: Expr) -> None:
        simd.prefetch(self.packed, panel, step * QUAD + line, 0)


def widen_quads(quads: Expr) -> list[Expr]:
    """uint32x16 with four packed weights (w + 128) a lane, as bfloat16: int32x16 of columns 0 and 1, and of 2 and 3.

    A byte put into the mantissa of the right power of two is a float32 of that power plus the byte; taking the power
    and 128 away leaves the weight, exact, with zeros in the lower half. Emits bindings.
    """
    quads = T.bind(quads)
    pairs = []
    for half in (quads, T.shift_right(quads, T.broadcast(T.uint32(16), LANES))):
        lanes = T.bind(half)
        first, second = (_byte_as_float(lanes, byte) for byte in (0, 1))
        pairs.append(simd.bits(T.shift_right(first, T.broadcast(T.uint32(16), LANES)) | second, "int32x16"))
    return pairs


def _byte_as_float(lanes: Expr, byte: int) -> Expr:
    """Byte 0 or 1 of each lane, less 128, as the bits of a float32."""
    power = float(1 << (23 - 8 * byte))
    masked = lanes & T.broadcast(T.uint32(0xFF << (8 * byte)), LANES)
    value = simd.bits(masked | simd.bits(simd.splat(power), "uint32x16"), "float32x16")
    return simd.bits(value - simd.splat(power + ZERO_POINT), "uint32x16")
