"""Cores, and the thread on which compiled code runs."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from vamc_py.errors import UserError
from vamc_py.runtime import library, threads
from vamc_py.runtime.threads import ComputeThread, available_cores, compute_thread

CPUS = len(threads._CPUS)


def pool_size() -> int:
    return int(library.load().get_global_func("runtime.NumThreads")())


@pytest.mark.parametrize("count", sorted({1, CPUS}))
def test_pool_has_the_wanted_size(count: int) -> None:
    assert compute_thread(count).call(pool_size) == count


def test_pool_of_a_process_that_used_tvm_before() -> None:
    """The caller's own pool, made first and smaller, does not limit ours, nor does TVM's pinning of the caller."""
    code = """
import os
from vamc_py.runtime import library, threads
from vamc_py.runtime.threads import available_cores, compute_thread
library.load().get_global_func("runtime.config_threadpool")(-2, 1, [str(threads._CPUS[0])])
assert len(os.sched_getaffinity(0)) == 1
compute = compute_thread(available_cores())
print(compute.call(library.load().get_global_func("runtime.NumThreads")) == available_cores())
print(sorted(compute.call(os.sched_getaffinity, 0)) == threads._CPUS)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["True", "True"], done.stderr


def test_the_callers_thread_is_left_alone() -> None:
    before = os.sched_getaffinity(0)
    ComputeThread(1)
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize("count", [-1, 0, CPUS + 1])
def test_impossible_number(count: int) -> None:
    with pytest.raises(UserError, match=f"^{count} threads: choose from 1 to {CPUS}"):
        ComputeThread(count)


def test_calls_run_on_one_other_thread() -> None:
    compute = compute_thread(1)
    names = {compute.call(threading.get_ident) for _ in range(3)}
    assert len(names) == 1
    assert threading.get_ident() not in names


def test_exceptions_reach_the_caller() -> None:
    with pytest.raises(ZeroDivisionError):
        compute_thread(1).call(lambda: 1 // 0)


def test_same_size_same_thread() -> None:
    assert compute_thread(1) is compute_thread(1)


@pytest.mark.parametrize(
    ("text", "quota"), [("max 100000\n", None), ("250000 100000\n", 2.5), ("", None), ("50000 100000", 0.5)]
)
def test_cpu_quota(tmp_path: Path, text: str, quota: float | None) -> None:
    path = tmp_path / "cpu.max"
    path.write_text(text)
    assert threads._cpu_quota(path) == quota


def test_no_control_group(tmp_path: Path) -> None:
    assert threads._cpu_quota(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("physical", "quota", "cores"),
    [(4, "max 1000", 4), (None, "max 1000", 8), (16, "max 1000", 8), (4, "2500 1000", 2), (4, "500 1000", 1)],
)
def test_available_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, physical: int | None, quota: str, cores: int
) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(threads, "_CPUS", list(range(8)))
    monkeypatch.setattr(threads, "_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: physical)
    assert available_cores() == cores
