"""The pool that every module brings: each task runs once, whoever comes, and faults reach the caller."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm.script import ir as I
from tvm.script import tirx as T

from vamc_py._link import link_options
from vamc_py.runtime import library, memory
from vamc_py.runtime.threads import ComputeThread

SIZE = 4096


@I.ir_module(s_tir=True)
class Loops:
    @T.prim_func(s_tir=True)
    def count(visits: T.handle, extent: T.handle) -> None:
        T.func_attr({"global_symbol": "count"})
        seen = T.match_buffer(visits, (SIZE,), "int32")
        most = T.match_buffer(extent, (1,), "int32")
        for i in T.parallel(most[0]):
            seen[i] = seen[i] + 1

    @T.prim_func(s_tir=True)
    def count_in_turn(visits: T.handle, extent: T.handle) -> None:
        """The same, each piece with every k-th task."""
        T.func_attr({"global_symbol": "count_in_turn"})
        seen = T.match_buffer(visits, (SIZE,), "int32")
        most = T.match_buffer(extent, (1,), "int32")
        with T.attr(0, "pragma_parallel_launch_point", 1), T.attr(0, "pragma_parallel_stride_pattern", 1):
            for i in T.parallel(most[0]):
                seen[i] = seen[i] + 1

    @T.prim_func(s_tir=True)
    def refuse(visits: T.handle, which: T.handle) -> None:
        T.func_attr({"global_symbol": "refuse"})
        seen = T.match_buffer(visits, (SIZE,), "int32")
        wrong = T.match_buffer(which, (1,), "int32")
        for i in T.parallel(SIZE):
            assert i != wrong[0], "this task is refused"
            seen[i] = seen[i] + 1


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("loops") / "mod.so"
    tvm.compile(Loops, target=tvm.target.Target({"kind": "llvm"})).export_library(str(path), **link_options())
    return path


Run = Callable[[str, int], npt.NDArray[np.int32]]


def run_loop(module: Any, name: str, number: int) -> npt.NDArray[np.int32]:
    """What the loop ``name`` leaves in ``visits``."""
    visits, extent = memory.zeros((SIZE,), "int32"), memory.zeros((1,), "int32")
    extent[0] = number
    module.get_function(name, query_imports=True)(memory.tensor(visits), memory.tensor(extent))
    return visits


@contextmanager
def pool_of(path: Path, threads: int, serving: int | None = None) -> Iterator[Run]:
    """Runs loops of the library on a pool of ``threads``, of which ``serving`` (default: all others) ever come."""
    module = library.load_module(path)
    with ThreadPoolExecutor(1) as launching:
        pool = launching.submit(module.get_function("use_threads", query_imports=True), threads).result()
        serve = module.get_function("serve_threads", query_imports=True)
        for number in range(1, threads if serving is None else serving + 1):
            threading.Thread(target=serve, args=(pool, number), daemon=True).start()
        yield lambda name, number: launching.submit(run_loop, module, name, number).result()


def check_each_task_ran_once(visits: npt.NDArray[np.int32], extent: int) -> None:
    assert visits[:extent].min(initial=1) == 1
    assert visits.max(initial=0) <= 1
    assert visits.sum() == extent


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("loop", ["count", "count_in_turn"])
def test_each_task_runs_once(path: Path, threads: int, loop: str) -> None:
    with pool_of(path, threads) as run:

        @given(st.integers(0, SIZE))
        @settings(deadline=None, max_examples=60)
        def check(extent: int) -> None:
            check_each_task_ran_once(run(loop, extent), extent)

        check()


@pytest.mark.parametrize("loop", ["count", "count_in_turn"])
def test_threads_that_never_come_are_not_waited_for(path: Path, loop: str) -> None:
    with pool_of(path, 6, serving=1) as run:
        for extent in (1, 5, 50, SIZE):
            check_each_task_ran_once(run(loop, extent), extent)


def test_many_loops_one_behind_the_other(path: Path) -> None:
    """Threads that are late for one loop meet the next."""
    module = library.load_module(path)
    visits, extent = memory.zeros((SIZE,), "int32"), memory.zeros((1,), "int32")
    extent[0] = 37
    arguments = (memory.tensor(visits), memory.tensor(extent))

    def launch() -> None:
        function = module.get_function("count", query_imports=True)
        for _ in range(20000):
            function(*arguments)

    compute = ComputeThread(1)
    compute.threads = 4  # more than there may be cores: some are always late
    compute.serve(module)
    compute.call(launch)
    assert (visits[:37] == 20000).all()
    assert not visits[37:].any()


def test_two_pools_in_one_library_at_once(path: Path) -> None:
    with pool_of(path, 2) as first, pool_of(path, 3) as second, ThreadPoolExecutor(2) as callers:

        def check(run: Run) -> None:
            for extent in range(200):
                check_each_task_ran_once(run("count", extent), extent)

        for done in [callers.submit(check, run) for run in (first, second)]:
            done.result()


def test_a_thread_without_a_pool_uses_the_one_of_tvm(path: Path) -> None:
    with pool_of(path, 2) as run:
        check_each_task_ran_once(run("count", 9), 9)
        check_each_task_ran_once(run_loop(library.load_module(path), "count", 9), 9)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_fault_reaches_the_caller_and_the_pool_lives_on(path: Path, threads: int) -> None:
    with pool_of(path, threads) as run:
        for wrong in (0, 1000, SIZE - 1):
            with pytest.raises(Exception, match="this task is refused"):
                run("refuse", wrong)
        assert run("refuse", -1).sum() == SIZE


def test_serving_a_library_twice_changes_nothing(path: Path) -> None:
    module = library.load_module(path)
    compute = ComputeThread(1)
    compute.serve(module)
    before = threading.active_count()
    compute.threads = 2
    compute.serve(module)
    assert threading.active_count() == before
    check_each_task_ran_once(compute.call(run_loop, module, "count", 77), 77)


@pytest.mark.parametrize("arguments", [(), (0,), (-3,), ("two",), (1, 2)])
def test_use_threads_takes_a_number_of_threads(path: Path, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match="use_threads takes a number of threads"):
        library.load_module(path).get_function("use_threads", query_imports=True)(*arguments)


def test_a_module_without_parallel_loops_has_nothing_to_serve(tmp_path: Path) -> None:
    @T.prim_func(s_tir=True)
    def alone(data: T.handle) -> None:
        T.func_attr({"global_symbol": "alone"})
        values = T.match_buffer(data, (4,), "int32")
        for i in range(4):
            values[i] = i

    built = tvm.compile(tvm.IRModule({"alone": alone}), target=tvm.target.Target({"kind": "llvm"}))
    built.export_library(str(tmp_path / "mod.so"), **link_options())
    module = library.load_module(tmp_path / "mod.so")
    compute = ComputeThread(1)
    compute.serve(module)
    values = memory.zeros((4,), "int32")
    compute.call(module.get_function("alone", query_imports=True), memory.tensor(values))
    assert values.tolist() == [0, 1, 2, 3]
