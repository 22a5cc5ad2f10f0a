"""``vamc-py compile CONFIG``."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer


def compile_(
    config: Annotated[Path, typer.Argument(help="The YAML file.", show_default=False)],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Use another value for a key; may be given several times."),
    ] = None,
) -> None:
    """Compile a checkpoint to a deployable folder, <workspace.path>/<name>.

    Example: vamc-py compile examples/hf_qwen3_int8.yaml --set workspace.path=/srv/models
    """
    from vamc_py.config import load_config

    loaded = load_config(config, overrides or [])
    for notice in loaded.notices:
        print(f"note: {notice}", file=sys.stderr)
    # A polite kill ends like Ctrl-C, so that the half-written folder is removed.
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    from vamc_py.compiler import compile_config

    compiled = compile_config(loaded)
    for note in compiled.notes:
        print(f"note: {note}", file=sys.stderr)
    print(compiled.folder)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("compile")(compile_)
