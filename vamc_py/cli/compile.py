"""``vamc-py compile``: a checkpoint becomes an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("compile")(compile_)


def compile_(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The YAML file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override one value, read as YAML; may be given again."),
    ] = None,
) -> None:
    """Compile a checkpoint to a deployable folder, <workspace.path>/<name>.

    Prints the folder; what happens on the way, and what stayed slow, goes to stderr. A compile that fails or is
    interrupted leaves no folder.

    Example: vamc-py compile examples/hf_qwen3_int8.yaml --set workspace.path=/srv/models
    """
    from vamc_py.config import load_config
    from vamc_py.extras import require_compiler
    from vamc_py.interrupts import ended_by_signals

    loaded = load_config(config, overrides or ())
    for notice in loaded.notices:
        typer.echo(f"notice: {notice}", err=True)
    require_compiler()
    with ended_by_signals():
        from vamc_py.compiler import compile_config

        compiled = compile_config(loaded)
    for note in compiled.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(compiled.folder)
