"""y = x @ W.T + bias + residual for the llvm target: float32 activations, packed weights (see `layout`)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, get_args

from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.tirx import PrimFunc
from tvm.tirx.script import builder as build

from vamc_py.activation import Activation, Prologue, columns_per_scale
from vamc_py.weights.formats import WeightFormat

from . import (
    gemm_bf16,
    gemm_float,
    gemm_float8,
    gemm_groups,
    gemm_int8,
    gemm_int8_grouped,
    gemm_int16,
    simd,
)
from .bfloat_weights import Bfloat16Weights, Float8Weights, GroupedWeights, Int8Weights, Weights
from .gemm import LinearTile, Output
from .gemm_groups import GroupedWeight
from .layout import PANEL, WeightType, packed_dtype, packed_shape
from .prologue import RowSource, row_source
from .simd import Expr

__all__ = ["LinearTile", "default_tile", "linear"]

MOST_INT8_COLUMNS = (1 << 31) // (128 * 128) - 1
"""The products of so many columns of int8 fit into an int32."""


def default_tile(weight: WeightType, activation: Activation = "int16", *, per_row: bool = True) -> LinearTile:
    """The tile of a kernel for which no tuned one is given; `per_row`: int8 weights have one scale for each row."""
    if activation == "bf16":
        return gemm_bf16.TILE
    if weight == "float8_e4m3fn":
        return gemm_float8.TILE
    if weight in ("float16", "bfloat16", "float32"):
        return gemm_float.TILE
    if activation != "int16":
        return gemm_int8_grouped.TILE
    return gemm_int8.TILE if weight == "int8" and per_row else gemm_groups.TILE


def linear(
    out_features: int,
    in_features: int,
    weight: WeightType | WeightFormat,
    *,
    bias: bool = False,
    residual: bool = False,
    activation: Activation = "int16",
    wide_rows: int = 0,
    prologue: Prologue = "none",
    epsilon: float = 0.0,
    tile: LinearTile | None = None,
) -> PrimFunc:
    """A kernel for any number n of rows (0 too) with, in this order, the arguments

    x float32[n, in_features] (float32[n, 2 * in_features] with prologue swiglu), the packed weight,
    scale float32[out_features] (weight "int8"; of another `WeightFormat` float32 or float16[panels, groups, 64]),
    zero int8[panels, groups, 64] (of a `WeightFormat` with zero points), bias float32[out_features] (with `bias`),
    residual float32[n, out_features] (with `residual`), norm float32[in_features] (with prologue rms_norm),
    y float32[n, out_features].

    Weights with scales meet `activation` where n > `wide_rows`, else int16 (float8 ones float32). `tile` is for
    `activation`. The bits of a row of y depend, within one of the two, on that row of x alone, not on n. No argument
    may overlap y.
    """
    if out_features < 1 or in_features < 1:
        raise ValueError(f"a linear layer of {in_features} to {out_features} features has no kernel")
    form = weight if isinstance(weight, WeightFormat) else WeightFormat("int8") if weight == "int8" else None
    values: WeightType = weight.values if isinstance(weight, WeightFormat) else weight
    if math.prod(packed_shape(out_features, in_features, values)) >= 1 << 31:
        raise ValueError(f"a weight [{out_features}, {in_features}] has more than 2,147,483,647 elements; split it")
    if values == "int8" and in_features > MOST_INT8_COLUMNS:
        raise ValueError(f"an int8 layer of {in_features} features overflows; it may have {MOST_INT8_COLUMNS}")
    per_row = form == WeightFormat("int8")
    if (
        activation not in get_args(Activation)
        or (activation != "int16" and form is None)
        or (columns_per_scale(activation, 1) is not None and not per_row)
    ):
        raise ValueError(f"there is no kernel for {weight} weights and activations {activation}")
    with IRBuilder() as module, build.prim_func(private=True, s_tir=True):
        build.func_name("linear")
        build.func_attr({"tirx.noalias": True, "op_pattern": 8})  # 8: opaque, not to be fused
        n = simd.named("n", T.int32())

        def argument(name: str, *shape: object, dtype: str = "float32") -> Any:
            return build.arg(name, build.buffer(shape, dtype))

        x = argument("x", n, 2 * in_features if prologue == "swiglu" else in_features)
        packed = argument("weight", *packed_shape(out_features, in_features, values), dtype=packed_dtype(values))
        scale = zero = None
        if form is not None and not per_row:
            groups = -(-out_features // PANEL), form.groups(in_features), PANEL
            scale = argument("scale", *groups, dtype=form.scale)
            zero = argument("zero", *groups, dtype="int8") if form.zeros else None
        elif form is not None:
            scale = argument("scale", out_features)
        bias_vector = argument("bias", out_features) if bias else None
        residual_rows = argument("residual", n, out_features) if residual else None
        norm = argument("norm", in_features) if prologue == "rms_norm" else None
        row_scale = scale if per_row else None
        output = Output(argument("y", n, out_features), out_features, row_scale, bias_vector, residual_rows)
        source = row_source(prologue, x, in_features, norm, epsilon)
        product = _Product(source, n, in_features, packed, scale, zero, values, form, output)
        tile = tile or default_tile(values, activation, per_row=per_row)
        if activation == "int16":
            product.emit_exact(tile)
        elif wide_rows == 0:
            product.emit_narrow(activation, tile)
        else:
            with T.If(n <= wide_rows):
                with T.Then():
                    product.emit_exact(default_tile(values, per_row=per_row))
                with T.Else():
                    product.emit_narrow(activation, tile)
    return module.get()


@dataclass(frozen=True)
class _Product:
    """What a kernel multiplies, and where its result goes."""

    source: RowSource
    n: Expr
    columns: int
    packed: Any
    scale: Any
    zero: Any
    values: WeightType
    form: WeightFormat | None
    output: Output

    def emit_exact(self, tile: LinearTile) -> None:
        """Emit the product of rows that keep their 16 bits."""
        if self.values == "float8_e4m3fn":
            rest = self.columns, self._group, tile
            gemm_float8.emit_float8(self.source, self.packed, self.scale, self.output, self.n, *rest)
        elif self.form is not None and self.output.scale is None:
            gemm_groups.emit_groups(self.source, self._grouped, self.output, self.n, tile)
        else:
            emit = gemm_float.emit_float
            if self.form is not None:
                emit = gemm_int16.emit_int16 if simd.current().vnni is None else gemm_int8.emit_int8
            emit(self.source, self.packed, self.output, self.n, self.columns, tile)

    def emit_narrow(self, activation: Activation, tile: LinearTile) -> None:
        """Emit the product of rows that take `activation`."""
        group = columns_per_scale(activation, self.columns)
        if group is None:
            gemm_bf16.emit_bf16(self.source, self._as_bfloat16(), self.output, self.n, tile)
        else:
            operands = self.source, self.packed, self.output, self.n, self.columns
            gemm_int8_grouped.emit_grouped(*operands, tile, group)

    def _as_bfloat16(self) -> Weights:
        if self.values == "float8_e4m3fn":
            return Float8Weights(self.packed, self.scale, self.columns, self._group)
        if self.values == "bfloat16":
            return Bfloat16Weights(self.packed, self.columns)
        return GroupedWeights(self._grouped) if self.output.scale is None else Int8Weights(self.packed, self.columns)

    @property
    def _group(self) -> int:
        assert self.form is not None
        return self.form.group or self.columns

    @property
    def _grouped(self) -> GroupedWeight:
        assert self.form is not None
        return GroupedWeight.of(self.form, self.columns, self.packed, self.scale, self.zero)
