"""What this machine can do at most: small functions to measure inside the module whose speed they judge.

    limit_read(data uint8[size], out int32[64])         reads all of `data`; time it on data larger than the caches
    limit_matrix_int8(rounds int32[1], out int32[64])   the int8 dot product (`simd.dot_u8s8`) on registers only
    limit_matrix_fp32(rounds int32[1], out float32[64]) fused multiply-adds on registers only
    limit_matrix_bf16(rounds int32[1], out float32[64]) vdpbf16ps on registers only; where the instruction set has it

out[0] of the matrix functions is the thousands of operations one round does over all threads (a multiply-add is two);
out[1:] (and out of limit_read) hold sums of what was read or computed, so that no compiler can drop the work.

Written as TIR with explicit vectors: the point is a known sequence of instructions, not a schedule of a computation.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.tirx import PrimFunc
from tvm.tirx.script import builder as build

from . import bfloat, simd
from .simd import BYTES, LANES, Expr

STREAMS = 4  # a thread reads its share at this many places at once, LINES cache lines at each:
LINES = 4  # one place keeps one page in flight for the hardware's prefetcher; measured 27 GB/s with one, 31 with four
AHEAD = 1024  # bytes of software prefetch in each stream: 36 GB/s
CHAINS = 24  # independent accumulators: hides the latency of vpdpbusd and fma (4 or 5 cycles, 1 or 2 a cycle)
FEWER_CHAINS = 6  # of two registers each, where there are 16 registers and not 32
STEPS = 512  # instructions of each chain in a round


def machine_limits(threads: int) -> dict[str, PrimFunc]:
    """The functions by global symbol for `simd.current()`, each split into `threads` parallel tasks (at most 63)."""
    if not 1 <= threads <= 63:
        raise ValueError(f"machine_limits takes 1 to 63 threads, not {threads}: each leaves its sum in out[1:64]")
    limits = {
        "limit_read": _limit_read(threads),
        "limit_matrix_int8": _limit_matrix("limit_matrix_int8", "int32", threads, 2 * BYTES, _dot),
        "limit_matrix_fp32": _limit_matrix("limit_matrix_fp32", "float32", threads, 2 * LANES, _multiply_add),
    }
    if simd.current().bf16:
        limits["limit_matrix_bf16"] = _limit_matrix("limit_matrix_bf16", "float32", threads, 4 * LANES, _dot_pairs)
    return limits


def _dot(accumulator: Expr, seed: Expr) -> Expr:
    if simd.current().vnni:
        return simd.dot_u8s8(accumulator, simd.bits(seed, "uint8x64"), simd.bits(seed, "int8x64"))
    # What a kernel does for each product, without the work on the operands that all products of a row or column share.
    # The accumulator is an operand, so that nothing can be computed once for all steps.
    pairs = simd.bits(accumulator, "int16x32")
    other = T.shift_left(seed, T.broadcast(T.int32(16), LANES))
    products = (simd.multiply_pairs(pairs, simd.bits(factor, "int16x32")) for factor in (seed, other))
    return accumulator + (next(products) + next(products))


def _multiply_add(accumulator: Expr, seed: Expr) -> Expr:
    return simd.fma(accumulator, seed, seed)


def _dot_pairs(accumulator: Expr, seed: Expr) -> Expr:
    return bfloat.dot_bf16(accumulator, simd.bits(seed, "int32x16"), simd.bits(seed, "int32x16"))


def _limit_matrix(name: str, dtype: str, threads: int, operations: int, step: Callable[[Expr, Expr], Expr]) -> PrimFunc:
    """`step` on all accumulators, STEPS times a round; one step of one is `operations` operations."""
    chains = CHAINS if simd.current().avx512 else FEWER_CHAINS
    thousands, rest = divmod(threads * chains * STEPS * operations, 1000)
    with IRBuilder() as module, build.prim_func(s_tir=True):
        build.func_name(name)
        build.func_attr({"global_symbol": name, "tirx.noalias": True})
        rounds = build.arg("rounds", build.buffer((1,), "int32"))
        out = build.arg("out", build.buffer((64,), dtype))
        with bfloat.instructions() if step is _dot_pairs else nullcontext(), T.parallel(0, threads) as thread:
            sums = [simd.scratch((LANES,), dtype) for _ in range(chains)]
            seed = T.bind(simd.splat(T.cast(rounds[0] & 1, dtype)))  # not a constant: nothing can be computed ahead
            for chain, chain_sum in enumerate(sums):
                simd.store(chain_sum, simd.splat(T.cast(thread + chain, dtype)), 0)
            with T.serial(0, rounds[0] * STEPS):
                for chain_sum in sums:
                    simd.store(chain_sum, step(simd.load(chain_sum, 0), seed), 0)
            _store_total(out, sums, thread, dtype)
        T.buffer_store(out, T.cast(T.int32(thousands + (2 * rest >= 1000)), dtype), [0])
    return module.get()


def _limit_read(threads: int) -> PrimFunc:
    """Each thread reads its contiguous share in STREAMS streams, 64 bytes a load."""
    with IRBuilder() as module, build.prim_func(s_tir=True):
        build.func_name("limit_read")
        build.func_attr({"global_symbol": "limit_read", "tirx.noalias": True})
        size = T.int32()
        data = build.arg("data", build.buffer((size,), "uint8"))
        out = build.arg("out", build.buffer((64,), "int32"))
        turn = LINES * BYTES
        share = T.bind(size // (threads * STREAMS * turn) * turn)  # of one stream
        with T.parallel(0, threads) as thread:
            sums = [simd.scratch((LANES,), "int32") for _ in range(STREAMS * LINES)]
            for total in sums:
                simd.store(total, T.broadcast(T.int32(0), LANES), 0)
            with T.serial(0, share // turn) as i:
                for number, total in enumerate(sums):
                    stream, line = divmod(number, LINES)
                    start = (thread * STREAMS + stream) * share + i * turn + line * BYTES
                    simd.prefetch(data, start + AHEAD)
                    piece = simd.bits(simd.load(data, start, count=BYTES), "int32x16")
                    simd.store(total, simd.load(total, 0) + piece, 0)
            _store_total(out, sums, thread, "int32")
        rest = simd.scratch((1,), "int32")
        T.buffer_store(rest, T.int32(0), [0])
        with T.serial(0, size - share * (threads * STREAMS)) as i:  # what does not fill a vector in every stream
            T.buffer_store(rest, rest[0] + T.cast(data[size - 1 - i], "int32"), [0])
        T.buffer_store(out, rest[0], [0])
    return module.get()


def _store_total(out: Any, sums: list[Any], thread: Expr, dtype: str) -> None:
    """out[thread + 1] = the sum of all lanes of `sums`."""
    total = simd.load(sums[0], 0)
    for part in sums[1:]:
        total = total + simd.load(part, 0)
    T.buffer_store(out, simd.fold_sum(total, dtype), [thread + 1])
