"""Linking mod.so: which linker is taken, that the module runs, and that the bytes are always the same."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vamc_py import _link
from vamc_py.errors import UserError

TINY_MODULE = Path(__file__).parent / "support" / "tiny_module.py"


def place_program(folder: Path, name: str) -> Path:
    program = folder / name
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    return program


def export_tiny(output: Path, **environment: str) -> bytes:
    """Export the tiny module from a process of its own, working in the output's folder."""
    output.parent.mkdir()
    command = [sys.executable, str(TINY_MODULE), output.name]
    subprocess.run(command, cwd=output.parent, env={**os.environ, **environment}, check=True, timeout=300)
    return output.read_bytes()


def check_it_runs(library: Path) -> None:
    code = (
        "import sys, numpy, tvm; m = tvm.runtime.load_module(sys.argv[1]);"
        "vm = tvm.relax.VirtualMachine(m, tvm.cpu()); x = numpy.ones((2, 4), 'float32');"
        "print(float(vm['main'](tvm.runtime.tensor(x)).numpy()[1, 3]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(library)], capture_output=True, text=True, check=True, timeout=60
    )
    assert float(done.stdout) == pytest.approx(np.tanh(np.exp(1.0)), rel=1e-5)


def test_two_processes_in_two_folders_give_the_same_bytes(tmp_path: Path) -> None:
    first = export_tiny(tmp_path / "here" / "mod.so")
    assert first == export_tiny(tmp_path / "there" / "other_name.so")
    check_it_runs(tmp_path / "here" / "mod.so")


@pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="ziglang is not made for this platform")
def test_zig_links_where_no_c_compiler_is(tmp_path: Path) -> None:
    """Slow on a machine that never linked with Zig before: it builds its libc stubs first."""
    empty_path = tmp_path / "empty"
    empty_path.mkdir()
    first = export_tiny(tmp_path / "here" / "mod.so", PATH=str(empty_path), CC="")
    assert first == export_tiny(tmp_path / "there" / "mod.so", PATH=str(empty_path), CC="")
    check_it_runs(tmp_path / "here" / "mod.so")


def test_environment_chooses_the_linker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place_program(tmp_path, "mycc")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CC", "mycc -m64")
    assert _link.find_linker() == ["mycc", "-m64"]


def test_environment_naming_a_missing_linker_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(UserError, match="CC names 'no-such-compiler'"):
        _link.find_linker()


def test_c_compilers_come_before_zig(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    clang = place_program(tmp_path, "clang")
    assert _link.find_linker() == [str(clang)]
    gcc = place_program(tmp_path, "gcc")
    assert _link.find_linker() == [str(gcc)]


def test_no_linker_at_all_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"install gcc or clang, or the Python package ziglang"):
        _link.link_options()


def test_failing_linker_is_quoted(tmp_path: Path) -> None:
    objects = tmp_path / "lib0.o"
    objects.write_bytes(b"no object file")
    with pytest.raises(UserError, match=r"linking .*mod\.so failed with exit code \d+ .*(?s:.)*lib0\.o"):
        _link.link_shared(_link.find_linker(), tmp_path / "mod.so", [str(objects)])
    assert not (tmp_path / "mod.so").exists()
