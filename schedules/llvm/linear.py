"""y = x @ W.T (* scale) + bias + residual for the llvm target: float32 activations, packed weights (see `layout`)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias, get_args

from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.tirx import PrimFunc
from tvm.tirx.script import builder as build

from vamc_py.activation import Activation, Prologue, columns_per_scale

from . import gemm_bf16, gemm_float, gemm_int8, gemm_int8_grouped, gemm_int16, simd
from .gemm import LinearTile, Output
from .layout import WeightType, packed_dtype, packed_shape
from .prologue import RowSource, row_source
from .simd import Expr

__all__ = ["LinearTile", "default_tile", "linear"]

MOST_INT8_COLUMNS = (1 << 31) // (128 * 128) - 1
"""The products of so many columns of int8 fit into an int32."""


def default_tile(weight: WeightType, activation: Activation = "int16") -> LinearTile:
    """The tile of a kernel for which no tuned one is given."""
    if weight != "int8":
        return gemm_float.TILE
    if activation == "bf16":
        return gemm_bf16.TILE
    return gemm_int8.TILE if activation == "int16" else gemm_int8_grouped.TILE


def linear(
    out_features: int,
    in_features: int,
    weight: WeightType,
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
    scale float32[out_features] (int8 weights only), bias float32[out_features] (with `bias`),
    residual float32[n, out_features] (with `residual`), norm float32[in_features] (with prologue rms_norm),
    y float32[n, out_features].

    Int8 weights meet `activation` where n > `wide_rows`, else int16. `tile` is for `activation`. The bits of a row of
    y depend, within one of the two, on that row of x alone, not on n. No argument may overlap y.
    """
    if out_features < 1 or in_features < 1:
        raise ValueError(f"a linear layer of {in_features} to {out_features} features has no kernel")
    if math.prod(packed_shape(out_features, in_features, weight)) >= 1 << 31:
        raise ValueError(f"a weight [{out_features}, {in_features}] has more than 2,147,483,647 elements; split it")
    int8 = weight == "int8"
    if int8 and in_features > MOST_INT8_COLUMNS:
        raise ValueError(f"an int8 layer of {in_features} features overflows; it may have {MOST_INT8_COLUMNS}")
    if activation not in get_args(Activation) or (activation != "int16" and not int8):
        raise ValueError(f"there is no kernel for {weight} weights and activations {activation}")
    with IRBuilder() as module, build.prim_func(private=True, s_tir=True):
        build.func_name("linear")
        build.func_attr({"tirx.noalias": True, "op_pattern": 8})  # 8: opaque, not to be fused
        n = simd.named("n", T.int32())

        def argument(name: str, *shape: object, dtype: str = "float32") -> object:
            return build.arg(name, build.buffer(shape, dtype))

        x = argument("x", n, 2 * in_features if prologue == "swiglu" else in_features)
        packed = argument("weight", *packed_shape(out_features, in_features, weight), dtype=packed_dtype(weight))
        scale = argument("scale", out_features) if int8 else None
        bias_vector = argument("bias", out_features) if bias else None
        residual_rows = argument("residual", n, out_features) if residual else None
        norm = argument("norm", in_features) if prologue == "rms_norm" else None
        output = Output(argument("y", n, out_features), out_features, scale, bias_vector, residual_rows)
        source = row_source(prologue, x, in_features, norm, epsilon)
        operands = source, packed, output, n, in_features
        tile = tile or default_tile(weight, activation)
        if activation == "int16":
            _emit_exact(operands, weight, tile)
        elif wide_rows == 0:
            _emit_narrow(operands, activation, tile)
        else:
            with T.If(n <= wide_rows):
                with T.Then():
                    _emit_exact(operands, weight, default_tile(weight))
                with T.Else():
                    _emit_narrow(operands, activation, tile)
    return module.get()


Operands: TypeAlias = tuple[RowSource, Any, Output, Expr, int]


def _emit_exact(operands: Operands, weight: WeightType, tile: LinearTile) -> None:
    emit: Callable[..., None] = gemm_int8.emit_int8 if weight == "int8" else gemm_float.emit_float
    if weight == "int8" and simd.current().vnni is None:
        emit = gemm_int16.emit_int16
    emit(*operands, tile)


def _emit_narrow(operands: Operands, activation: Activation, tile: LinearTile) -> None:
    group = columns_per_scale(activation, operands[-1])
    if group is None:
        gemm_bf16.emit_bf16(*operands, tile)
    else:
        gemm_int8_grouped.emit_grouped(*operands, tile, group)
