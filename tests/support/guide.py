"""Follows a guide in Markdown: writes its files, runs its Python and its commands, and compares what it shows."""

from __future__ import annotations

import doctest
import importlib
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.building import pip

from vamc_py.cli import main

_SHOW_CODE = '; echo "exit code $?"'  # behind a command that ends with another code than 0
_BLOCK = re.compile(r"(?:^`(?P<file>[\w.]+)`:\n\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block. ``file`` is the name in the line above it, where that is "`name`:" and nothing else."""

    language: str
    file: str | None
    text: str
    line: int  # of the document, where the text begins

    def commands(self) -> Iterator[tuple[str, str]]:
        """(command, output shown below it) of a console block."""
        for part in re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]:
            command, _, shown = part.partition("\n")
            yield command, shown


def blocks(text: str) -> list[Block]:
    """All fenced blocks of a document, in order."""
    return [
        Block(found["language"], found["file"], found["text"], text.count("\n", 0, found.start("text")) + 1)
        for found in _BLOCK.finditer(text)
    ]


class Reader:
    """Does what a guide says, in the current directory. ``packages`` is where ``pip install`` puts what it installs; it
    is on sys.path.

    A command's output is what it writes to stdout, then the faults of the input that vamc-py names on stderr; ``...``
    in the guide stands for any text. Without such faults it must end with 0, or the guide shows the code.
    """

    def __init__(self, packages: Path) -> None:
        self.packages = packages
        self.namespace: dict[str, Any] = {}

    def follow(self, block: Block) -> None:
        """AssertionError where a command fails or shows something else; Python's own exceptions pass."""
        if block.file is not None:
            Path(block.file).write_text(block.text)
        elif block.language == "python":
            exec(compile("\n" * (block.line - 1) + block.text, "the guide", "exec"), self.namespace)
        else:
            assert block.language == "console", f"line {block.line}: a block of {block.language} without a file's name"
            for command, shown in block.commands():
                code, got = self._run(shlex.split(command.removesuffix(_SHOW_CODE)))
                if command.endswith(_SHOW_CODE):
                    got += f"exit code {code}\n"
                else:
                    assert code == (2 if "vamc-py: error: " in got else 0), f"line {block.line}: {command}\n{got}"
                fits = doctest.OutputChecker().check_output(shown, got, doctest.ELLIPSIS)
                assert fits, f"line {block.line}: {command}\n--- shown\n{shown}--- got\n{got}"

    def _run(self, command: list[str]) -> tuple[int, str]:
        """Exit code and output."""
        program, *arguments = command
        if program == "vamc-py":
            return _run_here(arguments)  # torch and TVM are imported already
        if program == "pytest":
            command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
            plain = {
                name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"
            }  # changes the output
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=plain)
            return done.returncode, done.stdout
        assert program == "pip", f"a guide may not run {program}"
        pip(arguments[0], "--no-deps", "--no-build-isolation", "--target", str(self.packages), *arguments[1:])
        importlib.invalidate_caches()
        return 0, ""


def _run_here(arguments: list[str]) -> tuple[int, str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as left:
        main(arguments)
    faults = [line for line in err.getvalue().splitlines(keepends=True) if line.startswith("vamc-py: error: ")]
    return int(left.value.code or 0), out.getvalue() + "".join(faults)
