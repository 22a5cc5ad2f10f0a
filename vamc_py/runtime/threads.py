"""The cores this process may use, and a thread whose TVM pool uses them.

TVM keeps one worker pool for each thread that calls it. It starts that pool with half of the machine's CPUs, pins the
calling thread to them, and can shrink it later but not grow it. Compiled code therefore runs on threads of our own,
whose pool is set before its first use; the caller's thread stays as it was, and whichever thread calls, one pool works.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

import psutil

from vamc_py.errors import UserError
from vamc_py.runtime import library

P = ParamSpec("P")
R = TypeVar("R")

# Taken at import: the mask of a thread that has run TVM's code by itself is TVM's, no longer the process's.
_CPUS = sorted(os.sched_getaffinity(0))
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_SHARE_CORES = -3  # TVM's mode in which workers move freely over the CPUs: pinned ones fight with other processes


def available_cores() -> int:
    """Cores this process may use: its CPU mask, with hyper-threads counted once, and a container's CPU quota."""
    cores = min(len(_CPUS), psutil.cpu_count(logical=False) or len(_CPUS))
    quota = _cpu_quota(_QUOTA)
    return cores if quota is None else max(1, min(cores, int(quota)))


def _cpu_quota(path: Path) -> float | None:
    """CPUs' worth of time that the control group grants; None without a limit."""
    try:
        quota, period = path.read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


class ComputeThread:
    """A thread that runs compiled code on a pool of ``threads`` workers (itself one of them)."""

    def __init__(self, threads: int) -> None:
        if not 1 <= threads <= len(_CPUS):
            raise UserError(f"{threads} threads: choose from 1 to {len(_CPUS)}, the CPUs this process may use")
        self.threads = threads
        self._queue = ThreadPoolExecutor(1, thread_name_prefix="vamc-compute")
        self.call(_configure_pool, threads)

    def call(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run ``function`` on the thread and return its result or raise its exception; calls queue up."""
        return self._queue.submit(function, *args, **kwargs).result()


def _configure_pool(threads: int) -> None:
    tvm_ffi = library.load()
    tvm_ffi.get_global_func("runtime.config_threadpool")(_SHARE_CORES, threads, [str(cpu) for cpu in _CPUS])
    if (got := tvm_ffi.get_global_func("runtime.NumThreads")()) != threads:
        raise RuntimeError(f"TVM's pool has {got} workers instead of {threads}")


@functools.cache
def compute_thread(threads: int) -> ComputeThread:
    """The process's thread with a pool of that size: executors share it rather than contend for the cores."""
    return ComputeThread(threads)
