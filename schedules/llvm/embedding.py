"""Rows of a packed table by token id, as float32. A tied lm_head reads the same table through `linear`.

A row of a panel is spread over all of its cache lines, so a token reads 64 (int8) or 64·size bytes per four or one
columns: still microseconds, and one table instead of two.
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.tirx import PrimFunc
from tvm.tirx.script import builder as build

from . import simd
from .layout import PANEL, QUAD, ZERO_POINT, WeightType, packed_dtype, packed_shape
from .simd import LANES, Expr

PARALLEL_TOKENS = 16  # from here on, waking the threads pays


def embedding(vocab: int, hidden: int, weight: WeightType) -> PrimFunc:
    """A kernel for any number n of tokens (0 too) with, in this order, the arguments

    ids int32[n], the packed table [vocab, hidden], scale float32[vocab] (int8 only), y float32[n, hidden].

    An id outside [0, vocab) reads other memory: whoever calls checks the ids.
    """
    int8 = weight == "int8"
    with IRBuilder() as module, build.prim_func(private=True, s_tir=True):
        build.func_name("embedding")
        build.func_attr({"tirx.noalias": True, "op_pattern": 8})  # 8: opaque, not to be fused
        n = simd.named("n", T.int32())
        ids = build.arg("ids", build.buffer((n,), "int32"))
        table = build.arg("table", build.buffer(packed_shape(vocab, hidden, weight), packed_dtype(weight)))
        scale = build.arg("scale", build.buffer((vocab,), "float32")) if int8 else None
        y = build.arg("y", build.buffer((n, hidden), "float32"))

        def token(i: Expr) -> None:
            if int8:
                _emit_int8(y, table, scale, i, simd.opaque(ids[i]), hidden)
            else:
                _emit_float(y, table, i, simd.opaque(ids[i]), hidden)

        with T.If(n < PARALLEL_TOKENS):
            with T.Then(), T.serial(0, n) as i:
                token(i)
            with T.Else(), T.parallel(0, n) as i:
                token(i)
    return module.get()


def _emit_int8(y: Any, table: Any, scale: Any, i: Expr, row: Expr, hidden: int) -> None:
    """Four columns at a time: they are what lies together in memory."""
    factor = T.bind(scale[row])

    def value(stored: Expr, lanes: int) -> Expr:
        zero = T.int32(ZERO_POINT)
        integer = T.cast(stored, _vector("int32", lanes)) - (T.broadcast(zero, lanes) if lanes > 1 else zero)
        return T.cast(integer, _vector("float32", lanes)) * (T.broadcast(factor, lanes) if lanes > 1 else factor)

    place = row // PANEL, row % PANEL // LANES, row % LANES
    with T.serial(0, hidden // QUAD) as quad:
        stored = simd.load(table, place[0], quad, place[1], place[2], 0, count=QUAD)
        simd.store(y, value(stored, QUAD), i, quad * QUAD, count=QUAD)
    for column in range(hidden // QUAD * QUAD, hidden):
        stored = table[place[0], column // QUAD, place[1], place[2], column % QUAD]
        T.buffer_store(y, value(stored, 1), [i, column])


def _emit_float(y: Any, table: Any, i: Expr, row: Expr, hidden: int) -> None:
    with T.serial(0, hidden) as column:
        stored = table[row // PANEL, column, row % PANEL]
        if table.dtype == "uint16":
            value = simd.bits(T.shift_left(T.cast(stored, "uint32"), T.uint32(16)), "float32")
        else:
            value = T.cast(stored, "float32")
        T.buffer_store(y, value, [i, column])


def _vector(dtype: str, lanes: int) -> str:
    return dtype if lanes == 1 else f"{dtype}x{lanes}"
