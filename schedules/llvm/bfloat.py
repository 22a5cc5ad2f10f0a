"""bfloat16 products of AVX512_BF16 in directly written TIR: 16 float32 lanes, or 16 int32 lanes of two bfloat16 each.

TVM's code generator knows no bfloat16 vectors, so the instructions are small functions of LLVM's own language, which a
kernel imports (`instructions`) and LLVM inlines. Every kernel of a module may import them: the copies become one.

The three instructions round to nearest even, keep infinities and NaN, and take denormal numbers for zero.
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from .simd import LANES, Expr

_INTERLEAVED = ", ".join(f"i32 {lane}, i32 {lane + LANES}" for lane in range(LANES))
_LLVM = f"""
declare <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float>, <32 x bfloat>, <32 x bfloat>)
declare <16 x bfloat> @llvm.x86.avx512bf16.cvtneps2bf16.512(<16 x float>)
declare <32 x bfloat> @llvm.x86.avx512bf16.cvtne2ps2bf16.512(<16 x float>, <16 x float>)

define <16 x float> @vamc_dot_bf16(<16 x float> %sum, <16 x i32> %a, <16 x i32> %b) alwaysinline {{
  %x = bitcast <16 x i32> %a to <32 x bfloat>
  %y = bitcast <16 x i32> %b to <32 x bfloat>
  %r = call <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float> %sum, <32 x bfloat> %x, <32 x bfloat> %y)
  ret <16 x float> %r
}}

define <16 x i16> @vamc_round_bf16(<16 x float> %x) alwaysinline {{
  %b = call <16 x bfloat> @llvm.x86.avx512bf16.cvtneps2bf16.512(<16 x float> %x)
  %r = bitcast <16 x bfloat> %b to <16 x i16>
  ret <16 x i16> %r
}}

define <16 x i32> @vamc_pairs_bf16(<16 x float> %even, <16 x float> %odd) alwaysinline {{
  %b = call <32 x bfloat> @llvm.x86.avx512bf16.cvtne2ps2bf16.512(<16 x float> %odd, <16 x float> %even)
  %p = shufflevector <32 x bfloat> %b, <32 x bfloat> poison, <32 x i32> <{_INTERLEAVED}>
  %r = bitcast <32 x bfloat> %p to <16 x i32>
  ret <16 x i32> %r
}}
"""


def instructions() -> Any:
    """A frame for `with`: the statements inside may call the functions below. Once around a kernel's body is enough."""
    return T.attr(T.int32(0), "pragma_import_llvm", _LLVM)


def dot_bf16(accumulator: Expr, pairs_a: Expr, pairs_b: Expr) -> Expr:
    """vdpbf16ps: float32x16 plus, in each lane, both products of two pairs of bfloat16 (int32x16, int32x16).

    The processor can broadcast `pairs_b` from memory.
    """
    return T.call_pure_extern("float32x16", "vamc_dot_bf16", accumulator, pairs_a, pairs_b)


def round_bf16(vector: Expr) -> Expr:
    """float32x16 rounded to bfloat16, its bits as uint16x16."""
    return T.call_pure_extern("uint16x16", "vamc_round_bf16", vector)


def to_pairs(even: Expr, odd: Expr) -> Expr:
    """Two float32x16 rounded to bfloat16 and put side by side in int32x16: `even` in the low halves, `odd` above."""
    return T.call_pure_extern("int32x16", "vamc_pairs_bf16", even, odd)
