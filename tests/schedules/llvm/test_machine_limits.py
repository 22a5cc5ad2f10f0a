"""The limit kernels do the work they say: their sums are those of the data, and their time grows with the rounds."""

from __future__ import annotations

import time
from functools import cache
from typing import Any

import numpy as np
import pytest
import tvm

from vamc_py.schedules.llvm.machine_limits import CHAINS, LANES, STEPS, machine_limits


@cache
def module(threads: int) -> Any:
    return tvm.compile(tvm.IRModule(machine_limits(threads)), target=tvm.target.Target.from_device("cpu"))


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


@pytest.mark.parametrize(("name", "dtype", "operations"), [("int8", np.int32, 128), ("fp32", np.float32, 32)])
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
                expected = start if name == "int8" or rounds == 0 else 0
            else:  # the seed is 1: one byte of four, or sum * 1 + 1
                expected = start + LANES * CHAINS * turns
            assert sums[1 + thread] == expected


@pytest.mark.parametrize("name", ["int8", "fp32"])
def test_matrix_loops_take_time_in_proportion(name: str) -> None:
    kernel = module(1)[f"limit_matrix_{name}"]
    out = tvm.runtime.tensor(np.zeros(64, np.int32 if name == "int8" else np.float32))

    def seconds(rounds: int) -> float:
        argument = tvm.runtime.tensor(np.array([rounds], np.int32))
        times = []
        for _ in range(5):
            start = time.thread_time()  # one task runs on the calling thread: others on the machine do not count
            kernel(argument, out)
            times.append(time.thread_time() - start)
        return min(times)

    assert seconds(1000) > 4 * seconds(100)


def test_thread_counts_without_a_place_for_their_sum_are_refused() -> None:
    for threads in (0, 64):
        with pytest.raises(ValueError, match="1 to 63 threads"):
            machine_limits(threads)
