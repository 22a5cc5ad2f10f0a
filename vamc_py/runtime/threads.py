"""How many threads compute, and the thread that compiled code runs on.

A compiled module brings its own pool (``thread_pool.c``), which belongs to the thread that asked for it. Compiled code
therefore runs on one thread of our own: whichever thread calls, one pool works, and the caller's stays as it was. The
pool's threads are not pinned: where another process keeps a core busy, the system can move them off it.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from vamc_py.errors import ArtifactError, UserError
from vamc_py.runtime import library

P = ParamSpec("P")
R = TypeVar("R")

VARIABLE = "VAMC_NUM_THREADS"
# Taken at import: the mask of a thread that has run TVM's code by itself is TVM's, no longer the process's.
_CPUS = sorted(os.sched_getaffinity(0))
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_TOPOLOGY = Path("/sys/devices/system/cpu")
_SHARE_CORES = -3  # TVM's mode in which its workers move freely over the CPUs


def chosen_threads(option: int | None) -> int:
    """The number of threads: ``option`` if given, else the variable VAMC_NUM_THREADS if set, else the cores there are.

    Raises UserError for one that is no number of threads this process may use.
    """
    if option is not None:
        return _checked(option, f"{option} threads")
    if text := os.environ.get(VARIABLE, "").strip():
        return _checked(int(text) if text.isdecimal() else 0, f"the environment variable {VARIABLE} is {text!r}")
    return available_cores()


def _checked(threads: int, what: str) -> int:
    if not 1 <= threads <= len(_CPUS):
        raise UserError(f"{what}: choose from 1 to {len(_CPUS)}, the CPUs this process may use")
    return threads


def available_cores() -> int:
    """Cores this process may use: its CPU mask, with hyper-threads counted once, and a container's CPU quota."""
    cores = _physical_cores(_CPUS, _TOPOLOGY)
    quota = _cpu_quota(_QUOTA)
    return cores if quota is None else max(1, min(cores, int(quota)))


def _physical_cores(cpus: list[int], topology: Path) -> int:
    """Cores that the CPUs belong to; a CPU of which nothing is known counts as one."""
    cores = set()
    for cpu in cpus:
        try:
            cores.add((topology / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text())
        except OSError:
            cores.add(str(cpu))
    return len(cores)


def _cpu_quota(path: Path) -> float | None:
    """CPUs' worth of time that the control group grants; None without a limit."""
    try:
        quota, period = path.read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


class ComputeThread:
    """A thread that runs compiled code on ``threads`` threads, itself one of them."""

    def __init__(self, threads: int) -> None:
        self.threads = _checked(threads, f"{threads} threads")
        self._queue = ThreadPoolExecutor(1, thread_name_prefix="vamc-compute")
        self.call(os.sched_setaffinity, 0, _CPUS)  # whoever makes us may be a thread that TVM has pinned

    def submit(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Run ``function`` on the thread, after what was submitted before."""
        return self._queue.submit(function, *args, **kwargs)

    def call(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """``submit``, and return its result or raise its exception."""
        return self.submit(function, *args, **kwargs).result()

    def serve(self, module: Any) -> None:
        """Run the parallel loops of a library (``library.load_module``) on the pool that it brings.

        Raises ArtifactError where it has none.
        """
        try:
            use, serve = (module.get_function(name, query_imports=True) for name in ("use_threads", "serve_threads"))
        except AttributeError as error:
            raise ArtifactError("the module brings no pool of threads; compile the artifact again") from error
        if pool := self.call(use, self.threads):  # else this thread serves the library already
            serve.release_gil = True
            for number in range(1, self.threads):
                threading.Thread(target=serve, args=(pool, number), name=f"vamc-worker-{number}", daemon=True).start()

    def serve_built(self) -> None:
        """Run the parallel loops of modules that were built in this process, and so linked to no pool, on TVM's pool.

        TVM starts it with half of the machine's CPUs, and can shrink it later but not grow it.
        """
        self.call(_configure_tvm_pool, self.threads)


def _configure_tvm_pool(threads: int) -> None:
    tvm_ffi = library.load()
    tvm_ffi.get_global_func("runtime.config_threadpool")(_SHARE_CORES, threads, [str(cpu) for cpu in _CPUS])
    if (got := tvm_ffi.get_global_func("runtime.NumThreads")()) != threads:
        raise RuntimeError(f"TVM's pool has {got} workers instead of {threads}")


@functools.cache
def compute_thread(threads: int) -> ComputeThread:
    """The process's thread with a pool of that size: executors share it rather than contend for the cores."""
    return ComputeThread(threads)
