"""What this machine can do at most: three small functions to measure inside the module whose speed they judge.

    limit_read(data uint8[size], out int32[64])         reads all of `data`; time it on data larger than the caches
    limit_matrix_int8(rounds int32[1], out int32[64])   vpdpbusd on registers only
    limit_matrix_fp32(rounds int32[1], out float32[64]) fused multiply-adds on registers only

out[0] of the matrix functions is the thousands of operations one round does over all threads (a multiply-add is two);
out[1:] (and out of limit_read) hold sums of what was read or computed, so that no compiler can drop the work.

Written as TIR with explicit vectors: the point is a known sequence of instructions, not a schedule of a computation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.tirx import PrimFunc
from tvm.tirx.script import builder as build

from . import simd
from .simd import BYTES, LANES, Expr

STREAMS = 4  # a thread reads its share at this many places at once, LINES cache lines at each:
LINES = 4  # one place keeps one page in flight for the hardware's prefetcher; measured 27 GB/s with one, 31 with four
AHEAD = 1024  # bytes of software prefetch in each stream: 36 GB/s
CHAINS = 24  # independent accumulators: hides the latency of vpdpbusd and fma (4 or 5 cycles, 1 or 2 a cycle)
STEPS = 512  # instructions of each chain in a round


def machine_limits(threads: int) -> dict[str, PrimFunc]:
    """The three functions by global symbol, each split into `threads` parallel tasks (at most 63)."""
    if not 1 <= threads <= 63:
        raise ValueError(f"machine_limits takes 1 to 63 threads, not {threads}: each leaves its sum in out[1:64]")
    return {
        "limit_read": _limit_read(threads),
        "limit_matrix_int8": _limit_matrix("limit_matrix_int8", "int32", threads, 2 * BYTES, _dot),
        "limit_matrix_fp32": _limit_matrix("limit_matrix_fp32", "float32", threads, 2 * LANES, _multiply_add),
    }


def _dot(accumulator: Expr, seed: Expr) -> Expr:
    return simd.dot_u8s8(accumulator, simd.bits(seed, "uint8x64"), simd.bits(seed, "int8x64"))


def _multiply_add(accumulator: Expr, seed: Expr) -> Expr:
    return simd.fma(accumulator, seed, seed)


def _limit_matrix(name: str, dtype: str, threads: int, operations: int, step: Callable[[Expr, Expr], Expr]) -> PrimFunc:
    """`step` on CHAINS accumulators, STEPS times a round; one step is `operations` operations."""
    thousands, rest = divmod(threads * CHAINS * STEPS * operations, 1000)
    with IRBuilder() as module, build.prim_func(s_tir=True):
        build.func_name(name)
        build.func_attr({"global_symbol": name, "tirx.noalias": True})
        rounds = build.arg("rounds", build.buffer((1,), "int32"))
        out = build.arg("out", build.buffer((64,), dtype))
        with T.parallel(0, threads) as thread:
            sums = [simd.scratch((LANES,), dtype) for _ in range(CHAINS)]
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
