"""A real ``vamc-py compile`` that is sent a signal at one of its stages."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from vamc_py.config import LoadedConfig

# A test that runs in the background would hand down that SIGINT is ignored; a terminal does not.
PROGRAM = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from vamc_py.cli import main; main()"
)


def compile_until(loaded: LoadedConfig, stage: str, signal_number: int, *options: str) -> int:
    """Compiles in another process and sends it the signal when it enters the stage; its exit code."""
    loaded.path.write_text(loaded.text)
    command = [sys.executable, "-c", PROGRAM, "compile", str(loaded.path), *options]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line == f"{stage}\n":
                time.sleep(0.02)  # into its work
                process.send_signal(signal_number)
                break
        process.stderr.read()
        return process.wait(60)


def left(workspace: Path) -> list[str]:
    """What is in the workspace besides the YAML file."""
    return sorted(path.name for path in workspace.iterdir() if path.suffix != ".yaml")
