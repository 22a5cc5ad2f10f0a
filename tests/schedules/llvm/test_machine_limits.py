"""The limit kernels do the work they say: their sums are those of the data, and their time grows with the rounds."""

from __future__ import annotations

import time
from functools import cache
from typing import Any

import numpy as np
import pytest
import tvm
from support.cpu_features import needs_bf16
from support.instruction_sets import CPUS, assembly, foreign_instructions, runnable

from vamc_py._tvm import compile_module
from vamc_py.schedules.llvm import simd
from vamc_py.schedules.llvm.machine_limits import CHAINS, FEWER_CHAINS, LANES, STEPS, machine_limits
from vamc_py.target.description import this_machine


@cache
def module(threads: int) -> Any:
    target = this_machine("int8")
    with simd.using(target.instruction_set):
        return compile_module(tvm.IRModule(machine_limits(threads)), target.tvm_target())


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("size", [0, 1, 4096, 100_003])
def test_reading_sums_all_bytes(threads: int, size: int) -> None:
    data = np.random.default_rng(size).integers(0, 256, size).astype(np.uint8)
    out = tvm.runtime.tensor(np.full(64, 7, np.int32))
    module(threads)["limit_read"](tvm.runtime.tensor(data), out)
    sums = out.numpy()
    tail = len(data) % (threads * 4 * 4 * 64)  # summed by bytes; the rest as 32-bit words
    words = data[: len(data) - tail].view(np.uint32)
    assert sums[0] == data[len(data) - tail :].sum(dtype=np.int64)
    assert int(sums[1 : threads + 1].astype(np.int64).sum()) % 2**32 == int(words.sum(dtype=np.uint64)) % 2**32
    assert (sums[threads + 1 :] == 7).all()


PEAKS = [
    pytest.param("int8", np.int32, 128, id="int8"),
    pytest.param("fp32", np.float32, 32, id="fp32"),
    pytest.param("bf16", np.float32, 64, id="bf16", marks=needs_bf16),
]


@pytest.mark.parametrize(("name", "dtype", "operations"), PEAKS)
def test_matrix_loops_count_their_operations_and_depend_on_the_rounds(name: str, dtype: Any, operations: int) -> None:
    threads = 2
    out = tvm.runtime.tensor(np.zeros(64, dtype))
    for rounds in (0, 1, 2, 3):
        module(threads)[f"limit_matrix_{name}"](tvm.runtime.tensor(np.array([rounds], np.int32)), out)
        sums = out.numpy()
        assert sums[0] == round(threads * CHAINS * STEPS * operations / 1000)
        for thread in range(threads):
            start = LANES * sum(thread + chain for chain in range(CHAINS))
            turns = rounds * STEPS
            if rounds % 2 == 0:  # the seed is 0: nothing is added, or the sum becomes zero
                expected = 0 if name == "fp32" and rounds > 0 else start
            else:  # the seed is 1: one byte of four, sum * 1 + 1, or the upper half of a pair
                expected = start + LANES * CHAINS * turns
            assert sums[1 + thread] == expected


@pytest.mark.parametrize(("name", "dtype", "_operations"), PEAKS)
def test_matrix_loops_take_time_in_proportion(name: str, dtype: Any, _operations: int) -> None:
    kernel = module(1)[f"limit_matrix_{name}"]
    out = tvm.runtime.tensor(np.zeros(64, dtype))

    def seconds(rounds: int) -> float:
        argument = tvm.runtime.tensor(np.array([rounds], np.int32))
        times = []
        for _ in range(5):
            start = time.thread_time()  # one task runs on the calling thread: others on the machine do not count
            kernel(argument, out)
            times.append(time.thread_time() - start)
        return min(times)

    assert seconds(1000) > 4 * seconds(100)


@pytest.mark.parametrize("cpu", CPUS)
def test_other_cpus_have_loops_of_their_own_instructions(cpu: str) -> None:
    target = runnable(cpu)
    with simd.using(target.instruction_set):
        functions = machine_limits(1)
    assert "limit_matrix_bf16" not in functions
    built = compile_module(tvm.IRModule(functions), target.tvm_target())
    assert not foreign_instructions(assembly(built), target)
    chains = CHAINS if target.instruction_set.avx512 else FEWER_CHAINS
    out = tvm.runtime.tensor(np.zeros(64, np.int32))
    for rounds in (0, 1):
        built["limit_matrix_int8"](tvm.runtime.tensor(np.array([rounds], np.int32)), out)
        sums = np.repeat(np.arange(chains, dtype=np.int32), LANES)
        for _ in range(rounds * STEPS):
            # Without VNNI both halves of a sum are added to it; with it the product of two bytes of 1.
            added = sums.view(np.int16).reshape(-1, 2).sum(axis=1, dtype=np.int32)
            sums = sums + (1 if target.instruction_set.vnni else added)
        assert out.numpy()[0] == round(chains * STEPS * 128 / 1000)
        assert out.numpy()[1] == sums.sum(dtype=np.int32)


def test_thread_counts_without_a_place_for_their_sum_are_refused() -> None:
    for threads in (0, 64):
        with pytest.raises(ValueError, match="1 to 63 threads"):
            machine_limits(threads)
