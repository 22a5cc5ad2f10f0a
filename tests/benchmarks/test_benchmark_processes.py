"""Programs that the benchmark runs are watched: output, first token, memory, faults, time."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from support.project_tree import ROOT

from benchmarks.engine import Command, EngineError
from benchmarks.processes import watch


def python(code: str, *, marker: str | None = None, **environment: str) -> Command:
    return Command((sys.executable, "-c", code), environment, marker)


def test_output_and_times() -> None:
    code = "import time; print('loading', flush=True); time.sleep(.3); print('first token', flush=True); time.sleep(.3)"
    done = watch(python(code, marker="first token"), limit=30)
    assert done.output == "loading\nfirst token\n"
    assert done.first_token is not None
    assert 0.3 <= done.first_token <= done.seconds - 0.3


def test_without_a_marker_the_first_output_counts() -> None:
    done = watch(python("import time; print(1, flush=True); time.sleep(.3)"), limit=30)
    assert done.first_token is not None
    assert done.first_token <= done.seconds - 0.3
    assert watch(python("pass"), limit=30).first_token is None


def test_memory_of_its_own_and_of_files(tmp_path: Path) -> None:
    size = 64 << 20
    (tmp_path / "mapped").write_bytes(bytes(size))
    code = (
        "import mmap, sys, time; own = bytearray(64 << 20); file = open(sys.argv[1], 'rb');"
        "view = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ); sum(view[::4096]); time.sleep(.4)"
    )
    command = Command((sys.executable, "-c", code, str(tmp_path / "mapped")))
    memory = watch(command, limit=30).memory
    assert size <= memory.anonymous < 2 * size
    assert size <= memory.file < 2 * size
    assert 2 * size <= memory.resident <= memory.anonymous + memory.file


def test_children_count() -> None:
    """They are looked for every two seconds."""
    code = (
        "import subprocess, sys;"
        "subprocess.run([sys.executable, '-c', 'import time; own = bytearray(64 << 20); time.sleep(2.5)'])"
    )
    assert watch(python(code), limit=30).memory.anonymous >= 64 << 20


def test_the_environment_is_added_to() -> None:
    code = "import os; print(os.environ['GIVEN'], 'PATH' in os.environ)"
    assert watch(python(code, GIVEN="yes"), limit=30).output == "yes True\n"


def test_errors_are_kept_and_told(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = "import sys; print('working', file=sys.stderr); raise RuntimeError('no memory')"
    with pytest.raises(EngineError, match="ended with 1: RuntimeError: no memory"):
        watch(python(code), limit=30, log=log)
    assert log.read_text().startswith("working\nTraceback")
    with pytest.raises(EngineError, match="cannot be run: No such file"):
        watch(Command(("/nonexistent/program",)), limit=30)


def test_what_takes_too_long_is_ended_with_its_children() -> None:
    child = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    before = time.monotonic()
    with pytest.raises(EngineError, match="took longer than 1 s"):
        watch(python(code), limit=1)
    assert time.monotonic() - before < 30
    running = [one for one in psutil.Process().children(recursive=True) if one.status() != psutil.STATUS_ZOMBIE]
    assert running == []


def test_a_killed_benchmark_takes_its_programs_along(tmp_path: Path) -> None:
    """SIGTERM, as from ``timeout``: what it runs lives in a session of its own and would go on."""
    child = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    code = (
        "import sys; from benchmarks.engine import Command; from benchmarks.processes import watch;"
        "from vamc_py.interrupts import ended_by_signals\n"
        f"with ended_by_signals(): watch(Command((sys.executable, '-c', {child!r})), limit=60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE)
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    process.communicate(timeout=30)
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))
