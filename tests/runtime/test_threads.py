"""Cores, and the thread on which compiled code runs."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

import pytest

from vamc_py.errors import ArtifactError, UserError
from vamc_py.runtime import library, threads
from vamc_py.runtime.threads import VARIABLE, ComputeThread, available_cores, chosen_threads, compute_thread

CPUS = len(threads._CPUS)


def pool_size() -> int:
    return int(library.load().get_global_func("runtime.NumThreads")())


@pytest.mark.parametrize("count", sorted({1, CPUS}))
def test_tvms_pool_has_the_wanted_size(count: int) -> None:
    compute = compute_thread(count)
    compute.serve_built()
    assert compute.call(pool_size) == count


def test_a_module_without_a_pool_is_refused() -> None:
    class Old:
        def get_function(self, name: str, query_imports: bool) -> None:
            raise AttributeError(name)

    with pytest.raises(ArtifactError, match="brings no pool of threads; compile the artifact again"):
        ComputeThread(1).serve(Old())


def test_pool_of_a_process_that_used_tvm_before() -> None:
    """The caller's own pool, made first and smaller, does not limit ours, nor does TVM's pinning of the caller."""
    code = """
import os
from vamc_py.runtime import library, threads
from vamc_py.runtime.threads import available_cores, compute_thread
library.load().get_global_func("runtime.config_threadpool")(-2, 1, [str(threads._CPUS[0])])
assert len(os.sched_getaffinity(0)) == 1
compute = compute_thread(available_cores())
compute.serve_built()
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


def write_topology(folder: Path, siblings: dict[int, str]) -> None:
    for cpu, text in siblings.items():
        place = folder / f"cpu{cpu}" / "topology"
        place.mkdir(parents=True)
        (place / "thread_siblings_list").write_text(text + "\n")


PAIRS = {cpu: f"{cpu % 4},{cpu % 4 + 4}" for cpu in range(8)}
SINGLE = {cpu: str(cpu) for cpu in range(8)}


@pytest.mark.parametrize(
    ("cpus", "siblings", "quota", "cores"),
    [
        (range(8), PAIRS, "max 1000", 4),
        (range(8), {}, "max 1000", 8),
        (range(8), SINGLE, "max 1000", 8),
        (range(8), PAIRS, "2500 1000", 2),
        (range(8), PAIRS, "500 1000", 1),
        ([0, 4, 5], PAIRS, "max 1000", 2),  # both halves of a core and one of another
        ([1, 2], PAIRS, "8000 1000", 2),
        ([1, 2, 9], PAIRS, "max 1000", 3),
    ],
)
def test_available_cores(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    cpus: Iterable[int],
    siblings: dict[int, str],
    quota: str,
    cores: int,
) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    write_topology(tmp_path, siblings)
    monkeypatch.setattr(threads, "_CPUS", list(cpus))
    monkeypatch.setattr(threads, "_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(threads, "_TOPOLOGY", tmp_path)
    assert available_cores() == cores


@pytest.mark.parametrize(
    ("option", "variable", "chosen"),
    [(None, None, 3), (None, "", 3), (None, " 2 ", 2), (None, "8", 8), (5, None, 5), (5, "2", 5), (5, "none", 5)],
)
def test_the_option_beats_the_variable(
    monkeypatch: pytest.MonkeyPatch, option: int | None, variable: str | None, chosen: int
) -> None:
    monkeypatch.setattr(threads, "_CPUS", list(range(8)))
    monkeypatch.setattr(threads, "available_cores", lambda: 3)
    monkeypatch.delenv(VARIABLE, raising=False)
    if variable is not None:
        monkeypatch.setenv(VARIABLE, variable)
    assert chosen_threads(option) == chosen


@pytest.mark.parametrize("text", ["0", "-1", "9", "two", "1.5", "4x"])
def test_a_bad_variable_is_named(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(threads, "_CPUS", list(range(8)))
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(UserError, match=f"^the environment variable VAMC_NUM_THREADS is '{text}': choose from 1 to 8"):
        chosen_threads(None)


@pytest.mark.parametrize("option", [0, -2, 9])
def test_a_bad_option_is_named(monkeypatch: pytest.MonkeyPatch, option: int) -> None:
    monkeypatch.setattr(threads, "_CPUS", list(range(8)))
    with pytest.raises(UserError, match=f"^{option} threads: choose from 1 to 8"):
        chosen_threads(option)
