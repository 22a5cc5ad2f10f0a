"""Link a compiled module's object files to mod.so: with the machine's C compiler, else with Zig's from PyPI.

``thread_pool.c`` is compiled along with them: every module brings the threads of its parallel loops. The same objects
linked by the same compiler give the same bytes, wherever they lie.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from vamc_py.errors import UserError

Link = Callable[[str, list[str], list[str] | None], None]

C_COMPILERS = ("cc", "gcc", "clang")
THREAD_POOL = Path(__file__).parent / "thread_pool.c"
ZIG_GLIBC = "2.28"  # the glibc of TVM's own wheels: where they run, mod.so runs


def link_options() -> dict[str, Link]:
    """Keyword arguments for TVM's ``export_library``; call it before a long compile, since it looks for the linker.

    Raises UserError where the machine has neither a C compiler nor the package ziglang.
    """
    command = find_linker()

    def link(output: str, objects: list[str], options: list[str] | None = None) -> None:
        link_shared(command, output, [*objects, *(options or [])])

    return {"fcompile": link}


def find_linker() -> list[str]:
    """The start of the linking command: ``$CC``, else a C compiler on the PATH, else ``zig cc``."""
    chosen = shlex.split(os.environ.get("CC", ""))
    if chosen:
        if shutil.which(chosen[0]) is None:
            raise UserError(f"the environment variable CC names {chosen[0]!r}, which is not there: correct or unset it")
        return chosen
    for name in C_COMPILERS:
        if path := shutil.which(name):
            return [path]
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "cc", "-target", f"{platform.machine()}-linux-gnu.{ZIG_GLIBC}"]
    raise UserError(
        "linking mod.so needs a C compiler, and none was found: install gcc or clang, or the Python package ziglang"
    )


def link_shared(command: Sequence[str], output: str | Path, objects: Sequence[str]) -> None:
    """Link ``objects`` and the thread pool to the shared library ``output``; UserError with the linker's own words.

    The build id goes, as some linkers draw it at random; the symbols stay, for profilers. The library stays loaded to
    the end of a process, since threads run in it.
    """
    pool = ["-std=gnu11", "-O2", str(THREAD_POOL)]
    options = ["-shared", "-fPIC", "-Wl,--build-id=none", "-Wl,-z,nodelete"]
    arguments = [*command, *options, "-o", str(output), *pool, *objects, "-lm", "-lpthread"]
    done = subprocess.run(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    if done.returncode != 0:
        raise UserError(
            f"linking {output} failed with exit code {done.returncode} ({shlex.join(command)}); set CC to a C compiler "
            f"that can link a shared library. It said:\n{done.stdout.strip()}"
        )
