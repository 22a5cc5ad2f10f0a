"""Runs a program and watches it: how long it takes, when its first token comes, how much memory it holds."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from benchmarks.engine import Command, EngineError, last_line

_INTERVAL = 0.05  # seconds between two looks at the memory; all looks together take 0.2 % of one core
_FAMILY_LOOKS = 40  # of them between two looks for new children
_SIZES = ("RssAnon", "RssFile", "RssShmem")  # of /proc/PID/status


@dataclass
class Memory:
    """Peaks in bytes, over a program and its children: pages of their own, and pages of mapped files."""

    anonymous: int = 0
    file: int = 0
    resident: int = 0  # both together, at one moment

    def see(self, anonymous: int, file: int) -> None:
        """Raise the peaks."""
        self.anonymous = max(self.anonymous, anonymous)
        self.file = max(self.file, file)
        self.resident = max(self.resident, anonymous + file)


@dataclass(frozen=True)
class Finished:
    """A program that ran to its end; times in seconds from its start."""

    output: str
    seconds: float
    first_token: float | None  # when the marker came, or without a marker the first output; None: it never did
    memory: Memory

    def record(self) -> dict[str, float | int | None]:
        """All but the output, for the results."""
        return {"seconds": self.seconds, "first_token": self.first_token, **asdict(self.memory)}


def watch(command: Command, *, limit: float, log: Path | None = None) -> Finished:
    """Run ``command`` to its end; EngineError where it fails or takes longer than ``limit`` seconds.

    ``log``: where its stderr goes, else it is kept for the message only.
    """
    start = time.perf_counter()
    environment = {**os.environ, **command.environment}
    try:
        process = subprocess.Popen(
            command.arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
    except OSError as error:
        raise EngineError(f"{command.arguments[0]} cannot be run: {error.strerror}") from error
    reader = _Reader(process, command.marker, start)
    family, memory = _Family(process.pid), Memory()
    try:
        while process.poll() is None:
            memory.see(*family.memory())
            if time.perf_counter() - start > limit:
                raise EngineError(f"{Path(command.arguments[0]).name} took longer than {limit:.0f} s")
            time.sleep(_INTERVAL)
        seconds = time.perf_counter() - start
    finally:
        _end(process)
        output, errors = reader.texts()
    if log is not None:
        log.write_text(errors)
    if process.returncode:
        raise EngineError(f"{Path(command.arguments[0]).name} ended with {process.returncode}: {last_line(errors)}")
    return Finished(output, seconds, reader.first_token, memory)


class _Reader:
    """Reads both outputs while the program runs, each in a thread, and takes the time of the first token."""

    def __init__(self, process: subprocess.Popen[bytes], marker: str | None, start: float) -> None:
        self.first_token: float | None = None
        self._marker = marker
        self._start = start
        self._output: list[bytes] = []
        self._errors: list[bytes] = []
        assert process.stdout is not None
        assert process.stderr is not None
        self._pipes = (process.stdout, process.stderr)
        self._threads = (
            threading.Thread(target=self._read_output, args=(process.stdout.fileno(),)),
            threading.Thread(target=self._read_errors, args=(process.stderr.fileno(),)),
        )
        for thread in self._threads:
            thread.start()

    def texts(self) -> tuple[str, str]:
        """What the program printed, and its errors; waits for the end of both."""
        for thread in self._threads:
            thread.join()
        for pipe in self._pipes:
            pipe.close()
        return b"".join(self._output).decode(errors="replace"), b"".join(self._errors).decode(errors="replace")

    def _read_output(self, descriptor: int) -> None:
        while piece := os.read(descriptor, 1 << 16):
            self._output.append(piece)
            if self.first_token is None and self._is_first_token():
                self.first_token = time.perf_counter() - self._start

    def _read_errors(self, descriptor: int) -> None:
        while piece := os.read(descriptor, 1 << 16):
            self._errors.append(piece)

    def _is_first_token(self) -> bool:
        return self._marker is None or self._marker.encode() in b"".join(self._output)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Stop a program that still runs, with all it has started."""
    if process.poll() is None:
        os.killpg(process.pid, 9)  # its own group: start_new_session
        process.wait()


class _Family:
    """A process and its descendants, which are looked up seldom, since that reads all of /proc."""

    def __init__(self, process: int) -> None:
        self._process = process
        self._members = [process]
        self._looks = 0

    def memory(self) -> tuple[int, int]:
        """Bytes (anonymous, of mapped files) that all hold now."""
        if self._looks % _FAMILY_LOOKS == 0:
            with contextlib.suppress(psutil.NoSuchProcess):
                children = psutil.Process(self._process).children(recursive=True)
                self._members = [self._process, *(child.pid for child in children)]
        self._looks += 1
        held = [_memory_of(member) for member in self._members]
        return sum(anonymous for anonymous, _ in held), sum(file for _, file in held)


def _memory_of(process: int) -> tuple[int, int]:
    """Bytes (anonymous, of mapped files) that a process holds now; 0 once it has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0, 0
    fields = dict(line.split(":", 1) for line in status.splitlines())
    sizes = {name: int(fields[name].split()[0]) << 10 for name in _SIZES if name in fields}  # a zombie has none
    return sizes.get("RssAnon", 0), sizes.get("RssFile", 0) + sizes.get("RssShmem", 0)
