"""y = x @ W.T (* scale) + bias + residual for the llvm target: float32 activations, packed weights (see `layout`)."""

from __future__ import annotations

import math

from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.tirx import PrimFunc
from tvm.tirx.script import builder as build

from . import gemm_float, gemm_int8, simd
from .gemm import LinearTile, Output
from .layout import WeightType, packed_dtype, packed_shape

__all__ = ["LinearTile", "default_tile", "linear"]


def default_tile(weight: WeightType) -> LinearTile:
    """The tile of a kernel for which no tuned one is given."""
    return gemm_int8.TILE if weight == "int8" else gemm_float.TILE


def linear(
    out_features: int,
    in_features: int,
    weight: WeightType,
    *,
    bias: bool = False,
    residual: bool = False,
    tile: LinearTile | None = None,
) -> PrimFunc:
    """A kernel for any number n of rows (0 too) with, in this order, the arguments

    x float32[n, in_features], the packed weight, scale float32[out_features] (int8 weights only),
    bias float32[out_features] (with `bias`), residual float32[n, out_features] (with `residual`),
    y float32[n, out_features].

    The bits of a row of y depend on that row of x alone, not on n. No argument may overlap y.
    """
    if out_features < 1 or in_features < 1:
        raise ValueError(f"a linear layer of {in_features} to {out_features} features has no kernel")
    if math.prod(packed_shape(out_features, in_features, weight)) >= 1 << 31:
        raise ValueError(f"a weight [{out_features}, {in_features}] has more than 2,147,483,647 elements; split it")
    int8 = weight == "int8"
    with IRBuilder() as module, build.prim_func(private=True, s_tir=True):
        build.func_name("linear")
        build.func_attr({"tirx.noalias": True, "op_pattern": 8})  # 8: opaque, not to be fused
        n = simd.named("n", T.int32())

        def argument(name: str, *shape: object, dtype: str = "float32") -> object:
            return build.arg(name, build.buffer(shape, dtype))

        x = argument("x", n, in_features)
        packed = argument("weight", *packed_shape(out_features, in_features, weight), dtype=packed_dtype(weight))
        scale = argument("scale", out_features) if int8 else None
        bias_vector = argument("bias", out_features) if bias else None
        residual_rows = argument("residual", n, out_features) if residual else None
        output = Output(argument("y", n, out_features), out_features, scale, bias_vector, residual_rows)
        emit = gemm_int8.emit_int8 if int8 else gemm_float.emit_float
        emit(x, packed, output, n, in_features, tile or default_tile(weight))
    return module.get()
