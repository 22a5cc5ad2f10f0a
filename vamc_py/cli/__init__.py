"""The command line ``vamc-py``: parsing only, one file a command.

Each command module offers ``register(app)`` and imports what it works with inside its function, so that starting
``vamc-py`` costs the parser alone and ``vamc-py run`` never loads the compiler.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Annotated

import typer

from vamc_py import __version__
from vamc_py.cli import (
    bench,
    check,
    compile,
    eval,
    export_onnx,
    ir,
    passes,
    ppl,
    report,
    run,
    runstream,
    simulate,
    validate,
    verify,
)
from vamc_py.leaving import faults_end

PROGRAM = "vamc-py"
# In the order in which a user meets them.
COMMANDS: tuple[ModuleType, ...] = (
    validate, passes, compile, run, bench, ppl, eval, verify, ir, report, simulate, runstream, check, export_onnx,
)  # fmt: skip


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{PROGRAM} {__version__}")
        raise typer.Exit


def _program(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Compile Qwen-family checkpoints to deployable modules, and run them."""


def build_app() -> typer.Typer:
    """The program with all its commands; its exceptions reach the caller as they are."""
    app = typer.Typer(name=PROGRAM, no_args_is_help=True, add_completion=False, rich_markup_mode=None)
    app.callback()(_program)
    for command in COMMANDS:
        command.register(app)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``vamc-py`` on ``arguments`` (default: the process's own) and leave by SystemExit.

    Exit codes: 0 done, 2 the input or the command line is at fault (a sentence a fault on stderr), 130 interrupted,
    1 anything else: a fault of vamc-py (traceback), or nobody reads the output any more (silence).
    """
    try:
        with faults_end(PROGRAM):
            typer.main.get_command(build_app()).main(args=arguments, prog_name=PROGRAM)
    finally:
        _flush_output()


def _flush_output() -> None:
    """Write out what is buffered while a closed pipe can still be met in silence; at exit Python would complain."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
