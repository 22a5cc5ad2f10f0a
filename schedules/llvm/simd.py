"""Expressions for AVX-512 in directly written TIR: 16 float32 or int32 lanes, or 64 bytes, per vector.

Each function takes and returns TIR expressions and may be called from TVMScript and from plain Python that builds IR
(an active ``IRBuilder``). Those that say so emit statements, too, and so need the builder.

Why intrinsics: TVM leaves ``a * b + c`` to LLVM, which may or may not contract it, so that two paths through one kernel
could differ in the last bit; ``fma`` is always one rounding. ``exp`` on a vector would become sixteen calls of libm.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import tvm
from tvm import tirx
from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder

Expr: TypeAlias = Any
"""A TIR expression (tvm is untyped here)."""

LANES = 16
BYTES = 64


def intrinsic(name: str, dtype: str, *arguments: Expr) -> Expr:
    """A call of the LLVM intrinsic `name` without side effects; overloads are found by the types of the arguments."""
    return T.call_llvm_pure_intrin(T.llvm_lookup_intrinsic_id(name), *arguments, dtype=dtype)


def lanes(start: Expr, count: int = LANES) -> Expr:
    """The indices start, start + 1, …: ``buffer[i, lanes(16 * v)] = vector`` stores 16 elements."""
    return T.ramp(start, 1, count)


def load(buffer: Any, *indices: Expr, count: int = LANES) -> Expr:
    """`count` contiguous elements of `buffer` from `indices` on."""
    return buffer.vload(list(indices), dtype=f"{buffer.dtype}x{count}")


def store(buffer: Any, value: Expr, *indices: Expr, count: int = LANES) -> None:
    """Emit the store of a vector of `count` elements at `indices` and the places after it."""
    T.buffer_store(buffer, value, [*indices[:-1], lanes(indices[-1], count)])


def scratch(shape: tuple[int, ...], dtype: str) -> Any:
    """Emit a small buffer that LLVM keeps in registers (all indices constant after unrolling) or on the stack.

    Only scope "global" and less than 1,024 bytes do: TVM turns any "local" or larger buffer into a heap workspace, and
    then its accumulators are stored in each turn of a loop that has a side effect, such as a prefetch. Make several
    small buffers instead of one large one.
    """
    if math.prod(shape) * (tvm.DataType(dtype).bits // 8) >= 1024:
        raise ValueError(f"a scratch buffer {shape} of {dtype} is too large for the stack; split it")
    return T.alloc_buffer(shape, dtype)


def opaque(value: Expr, name: str = "opaque") -> Expr:
    """`value`, an int32, as a variable `name` into which TVM's analyses do not look.

    Emits a store and a binding, which LLVM removes. TVM's region analysis multiplies out the divisions and remainders
    of a dynamic size in every index: a second of compile time a kernel for what no pass can use.
    """
    cell = scratch((1,), "int32")
    T.buffer_store(cell, value, [0])
    return named(name, T.bind(cell[0]))


def named(name: str, value: Any) -> Any:
    """`value`, a variable or buffer, which dumps of the IR show as `name`."""
    IRBuilder.name(name, value)
    return value


def prefetch(buffer: Any, *indices: Expr) -> None:
    """Emit a prefetch into the second-level cache of the line at `indices`, which may lie beyond the buffer's end.

    Into the first level it would take the line-fill buffers from the loads at hand: measured at half the speed.
    """
    number = T.llvm_lookup_intrinsic_id("llvm.prefetch.p0")
    read, second_level, data = T.int32(0), T.int32(2), T.int32(1)
    address = T.address_of(buffer[indices])
    T.evaluate(T.call_llvm_intrin(number, address, read, second_level, data, dtype="void"))


def splat(value: Expr, count: int = LANES) -> Expr:
    """A scalar in all lanes. A Python float becomes float32 (a Python int is refused: its type would be a guess)."""
    if isinstance(value, int):
        raise TypeError("splat takes a float or a TIR expression; write T.int32(...)")
    return T.broadcast(T.float32(value) if isinstance(value, float) else value, count)


def fma(a: Expr, b: Expr, c: Expr) -> Expr:
    """a * b + c with one rounding, float32, vectors or scalars alike."""
    return intrinsic("llvm.fma", str(c.ty.dtype), a, b, c)


def bits(vector: Expr, dtype: str) -> Expr:
    """The same bits read as `dtype`."""
    return T.reinterpret(dtype, vector)


def widen_bfloat16(vector: Expr, count: int = LANES) -> Expr:
    """uint16 lanes that hold bfloat16 bits, as float32 (exact)."""
    return bits(T.shift_left(T.cast(vector, f"uint32x{count}"), T.broadcast(T.uint32(16), count)), f"float32x{count}")


def dot_u8s8(accumulator: Expr, unsigned: Expr, signed: Expr) -> Expr:
    """vpdpbusd: int32x16 plus, in each lane, the sum of four products of uint8x64 and int8x64; wraps, never saturates.

    The signed operand is the one the processor can broadcast from memory (`quad`).
    """
    return intrinsic("llvm.x86.avx512.vpdpbusd.512", "int32x16", accumulator, unsigned, signed)


def quad(buffer: Any, *indices: Expr) -> Expr:
    """Four contiguous bytes of an int8 buffer in each of the 16 lanes: int8x64."""
    return bits(T.broadcast(bits(load(buffer, *indices, count=4), "int32"), LANES), "int8x64")


def maximum(a: Expr, b: Expr) -> Expr:
    """The larger in each lane (vmaxps: `b` where either is NaN)."""
    return tirx.Select(a > b, a, b)


def exp(x: Expr) -> Expr:
    """e**x of a float32x16, within 2 units in the last place; 0 below -104, inf above 89, NaN stays. Emits bindings."""
    x = maximum(splat(-104.0), tirx.Select(splat(89.0) < x, splat(89.0), x))
    x = T.bind(x)
    whole = T.bind(T.nearbyint(x * splat(1.4426950408889634)))
    rest = fma(whole, splat(-0.693145751953125), x)  # ln 2 in two parts: the first product is exact
    rest = T.bind(fma(whole, splat(-1.42860682030941723212e-6), rest))
    value = splat(1.0 / 5040)
    for denominator in (720.0, 120.0, 24.0, 6.0, 2.0, 1.0, 1.0):
        value = fma(value, rest, splat(1.0 / denominator))
    return intrinsic(  # exact where the result is denormal or overflows, which adding to the exponent bits is not
        "llvm.x86.avx512.mask.scalef.ps.512", "float32x16", value, whole, splat(0.0), T.int16(-1), T.int32(4)
    )


def fold(vector: Expr, combine: Callable[[Expr, Expr], Expr], dtype: str = "float32", count: int = LANES) -> Expr:
    """All lanes (of 32 bits) combined to one scalar, halves with halves, always in the same order. Emits bindings."""
    while count > 2:
        count //= 2
        half = f"{dtype}x{count}"
        whole = T.bind(vector)
        vector = combine(T.vectorlow(half, whole), T.vectorhigh(half, whole))
    pair = T.bind(bits(vector, "uint64"))  # vectorlow to a scalar is a <1 x float> to LLVM, which its verifier refuses
    low = bits(T.cast(pair, "uint32"), dtype)
    high = bits(T.cast(T.shift_right(pair, T.uint64(32)), "uint32"), dtype)
    return T.bind(combine(low, high))


def fold_sum(vector: Expr, dtype: str = "float32") -> Expr:
    """The sum of 16 lanes as a scalar. Emits bindings."""
    return fold(vector, lambda a, b: a + b, dtype)


def fold_max(vector: Expr, dtype: str = "float32") -> Expr:
    """The largest of 16 lanes as a scalar (float NaNs may be lost). Emits bindings."""
    return fold(vector, maximum, dtype)
