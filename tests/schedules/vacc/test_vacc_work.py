"""What the walker counts, and what it refuses to."""

from __future__ import annotations

from typing import Any

import pytest
from tvm.script import tirx as T

from vamc_py.runstream.program import Work
from vamc_py.schedules.vacc.intrinsics import region, vector
from vamc_py.schedules.vacc.kernel import Buffer, define
from vamc_py.schedules.vacc.loops import bound, serial


def kernel(emit: Any, **options: Any) -> Any:
    buffers = [Buffer("x", "float32", 8, "update")]
    return define("kernel", "vector", buffers, 2, emit, **options)


def work(*sizes: int, count: int = 1, intrinsic: Any = "vector") -> Work:
    return Work(intrinsic=intrinsic, sizes=sizes, count=count)


def touch(x: Any) -> None:
    T.buffer_store(x, T.float32(0), [0])


def test_loops_multiply_and_conditions_choose() -> None:
    def emit(core: Any, x: Any) -> None:
        with serial(5, "i"), serial(core + 1, "j") as j:
            twice = bound("twice", j * 2)
            with vector(twice, 3):  # nothing for j = 0
                touch(x)
            with serial(7, "k"), region("drain", 16):
                touch(x)
        with T.If(core == 1), T.Then(), region("mma_f16", 16, 16, 4):
            touch(x)

    first, second = kernel(emit).record().work
    assert first == (work(16, count=35, intrinsic="drain"),)
    assert second == (
        work(16, count=70, intrinsic="drain"),
        work(2, 3, count=5),
        work(16, 16, 4, intrinsic="mma_f16"),
    )


def test_work_without_an_intrinsic_is_refused() -> None:
    def emit(core: Any, x: Any) -> None:
        with vector(8, 1):
            touch(x)
        touch(x)

    with pytest.raises(ValueError, match="outside of all intrinsics there is BufferStore"):
        kernel(emit).record()


def test_work_that_only_a_run_knows_is_refused() -> None:
    def by_scalar(core: Any, x: Any, first: Any) -> None:
        with vector(first, 1):
            touch(x)

    def by_memory(core: Any, x: Any) -> None:
        with vector(T.cast(x[0], "int32"), 1):
            touch(x)

    with pytest.raises(ValueError, match="depends on first, which only a run knows"):
        kernel(by_scalar, scalars=["first"]).record()
    with pytest.raises(ValueError, match="no arithmetic of integers"):
        kernel(by_memory).record()


def test_an_unknown_intrinsic_is_refused() -> None:
    def emit(core: Any, x: Any) -> None:
        with region("convolve", 3):
            touch(x)

    with pytest.raises(ValueError, match="mma_f16"):
        kernel(emit).record()
