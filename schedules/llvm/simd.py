"""Vector expressions in directly written TIR: 16 float32 or int32 lanes, or 64 bytes, per vector.

Where an instruction set matters, the functions choose by ``current()`` (see `instruction_set`), with the same bits as
the result on each of them. Without AVX-512, LLVM makes two registers of a vector.

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

from .instruction_set import InstructionSet as InstructionSet
from .instruction_set import current as current
from .instruction_set import using as using

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


def workspace(*shape: Expr, dtype: str = "float32") -> Any:
    """Emit a heap buffer of this shape (of two elements where the shape has one: TVM takes that for a scalar variable).

    The view keeps CompactBufferAllocation away, which shrinks an allocation to the indices that it sees: those that
    come from memory (see `keep`) it takes for a single one.
    """
    shape = (2,) if shape == (1,) else shape
    return T.decl_buffer(shape, dtype, data=T.alloc_buffer(shape, dtype).data)


def opaque(value: Expr, name: str = "opaque") -> Expr:
    """`value`, an int32, as a variable `name` into which TVM's analyses do not look.

    They multiply out the divisions and remainders of a dynamic size in every index: one to two seconds of compile time
    a kernel for what no pass can use.
    """
    return named(name, keep(value))


def keep(value: Expr) -> Expr:
    """`value` computed once. Emits a store and a binding, which LLVM removes.

    A plain binding does not do: the simplifier puts a bound pure expression back wherever its variable is used, and the
    text grows exponentially with the depth of the computation (minutes of compile time); nor does it look into memory
    when it works on indices with symbolic divisors (minutes, too).
    """
    count, dtype = value.ty.dtype.lanes, value.ty.dtype
    cell = scratch((count,), str(dtype).split("x")[0])
    if count == 1:
        T.buffer_store(cell, value, [0])
        return T.bind(cell[0])
    store(cell, value, 0, count=count)
    return T.bind(load(cell, 0, count=count))


def named(name: str, value: Any) -> Any:
    """`value`, a variable or buffer, which dumps of the IR show as `name`."""
    IRBuilder.name(name, value)
    return value


def prefetch(buffer: Any, *indices: Expr, write: bool = False) -> None:
    """Emit a prefetch into the second-level cache of the line at `indices`, which may lie beyond the buffer's end.

    Into the first level it would take the line-fill buffers from the loads at hand: measured at half the speed.
    With `write`, the line is to be stored to soon, and is fetched as the processor's own.
    """
    number = T.llvm_lookup_intrinsic_id("llvm.prefetch.p0")
    purpose, level, data = T.int32(int(write)), T.int32(3 if write else 2), T.int32(1)
    address = T.address_of(buffer[indices])
    T.evaluate(T.call_llvm_intrin(number, address, purpose, level, data, dtype="void"))


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
    """int32x16 plus, in each lane, the sum of four products of uint8x64 and int8x64; wraps, never saturates.

    vpdpbusd; the processor can broadcast the signed operand (`quad`) from memory. Without VNNI it is two vpmaddwd of 16
    bits, of the even and of the odd bytes (vpmaddubsw, the product of bytes, would saturate). LLVM computes the even
    and odd bytes of one operand once for all products it occurs in.
    """
    vnni = current().vnni
    if vnni == "avx512":
        return intrinsic("llvm.x86.avx512.vpdpbusd.512", "int32x16", accumulator, unsigned, signed)
    if vnni == "avx":

        def product(half: Half) -> Expr:
            operands = half(accumulator), half(unsigned), half(signed)
            return intrinsic("llvm.x86.avx512.vpdpbusd.256", "int32x8", *operands)

        return _joined(product, "int32x16")
    return accumulator + (
        multiply_pairs(even_unsigned_bytes(unsigned), even_signed_bytes(signed))
        + multiply_pairs(odd_unsigned_bytes(unsigned), odd_signed_bytes(signed))
    )


def multiply_pairs(a: Expr, b: Expr) -> Expr:
    """vpmaddwd: int32x16, in each lane the sum of both products of two pairs of int16 (int16x32, int16x32)."""
    if current().avx512:
        return intrinsic("llvm.x86.avx512.pmaddw.d.512", "int32x16", a, b)
    return _joined(lambda half: intrinsic("llvm.x86.avx2.pmadd.wd", "int32x8", half(a), half(b)), "int32x16")


def even_unsigned_bytes(vector: Expr) -> Expr:
    """Bytes 0, 2, 4, … of uint8x64, as int16x32."""
    return bits(bits(vector, "uint16x32") & T.broadcast(T.uint16(0xFF), 32), "int16x32")


def odd_unsigned_bytes(vector: Expr) -> Expr:
    """Bytes 1, 3, 5, … of uint8x64, as int16x32."""
    return bits(T.shift_right(bits(vector, "uint16x32"), T.broadcast(T.uint16(8), 32)), "int16x32")


def even_signed_bytes(vector: Expr) -> Expr:
    """Bytes 0, 2, 4, … of int8x64, as int16x32."""
    return odd_signed_bytes(bits(T.shift_left(bits(vector, "uint16x32"), T.broadcast(T.uint16(8), 32)), "int8x64"))


def odd_signed_bytes(vector: Expr) -> Expr:
    """Bytes 1, 3, 5, … of int8x64, as int16x32."""
    return T.shift_right(bits(vector, "int16x32"), T.broadcast(T.int16(8), 32))


Half: TypeAlias = Callable[[Expr], Expr]


def _joined(product: Callable[[Half], Expr], dtype: str) -> Expr:
    """`product` of the low and of the high halves of its operands, side by side."""

    def half(function: Callable[[str, Expr], Expr]) -> Half:
        def take(vector: Expr) -> Expr:
            whole = vector.ty.dtype
            return function(f"{str(whole).split('x')[0]}x{whole.lanes // 2}", vector)

        return take

    return T.vectorcombine(dtype, product(half(T.vectorlow)), product(half(T.vectorhigh)))


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
    return scale_exponent(value, whole)


def scale_exponent(value: Expr, exponent: Expr) -> Expr:
    """value * 2**exponent of float32x16, rounded once where it is denormal; 0 or inf beyond that. May emit bindings.

    `exponent` is float32x16 of whole numbers from -252 to 254, and |value| is from 2**-1 to 2 (beyond it, results that
    are denormal may be rounded twice). Where `value` is NaN the exponent may be NaN, too, and so is the result.
    """
    if current().avx512:
        every_lane, current_rounding = T.int16(-1), T.int32(4)
        name = "llvm.x86.avx512.mask.scalef.ps.512"
        return intrinsic(name, "float32x16", value, exponent, splat(0.0), every_lane, current_rounding)
    # Two factors, each a normal number: one would overflow where the result is denormal or 2**128. Adding 1.5 * 2**23
    # leaves the exponent in the low bits of the float; converting a NaN to an integer would be undefined to LLVM.
    whole = T.bind(bits(exponent + splat(12582912.0), "int32x16") - T.broadcast(T.int32(0x4B400000), LANES))
    half = T.bind(T.shift_right(whole, T.broadcast(T.int32(1), LANES)))
    return value * _power_of_two(half) * _power_of_two(whole - half)


def _power_of_two(exponent: Expr) -> Expr:
    """2**exponent as float32x16, for int32x16 from -126 to 127."""
    biased = exponent + T.broadcast(T.int32(127), LANES)
    return bits(T.shift_left(biased, T.broadcast(T.int32(23), LANES)), "float32x16")


def fold(vector: Expr, combine: Callable[[Expr, Expr], Expr], dtype: str = "float32", count: int = LANES) -> Expr:
    """All lanes (of 32 bits) combined to one scalar, halves with halves, always in the same order. Emits bindings."""
    while count > 2:
        count //= 2
        half = f"{dtype}x{count}"
        whole = keep(vector)
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
