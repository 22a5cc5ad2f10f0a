"""``vamc-py compile``: a checkpoint becomes an artifact."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vamc_py.config import LoadedConfig
    from vamc_py.inspect.watch import Inspection


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("compile")(compile_)


def compile_(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The YAML file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override one value, read as YAML; may be given again."),
    ] = None,
    dump_ir: Annotated[
        Path | None,
        typer.Option("--dump-ir", metavar="DIR", help="Write the IR after every pass there, as text and as JSON."),
    ] = None,
    print_after: Annotated[
        list[str] | None,
        typer.Option(metavar="PASS", help="Print the module after this pass; may be given again."),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="PASS", help="Stop after this pass: nothing is built, no weight is read.")
    ] = None,
    only_function: Annotated[
        str | None, typer.Option(metavar="NAME", help="Print this function only (main, step, or a kernel).")
    ] = None,
    verbose: Annotated[
        int,
        typer.Option("--verbose", "-v", count=True, help="Log to <workspace.path>/<name>.log; -vv logs more."),
    ] = 0,
) -> None:
    """Compile a checkpoint to a deployable folder, <workspace.path>/<name>.

    Prints the folder; what happens on the way, and what stayed slow, goes to stderr. A compile that fails or is
    interrupted leaves no folder. A fault of the compiler itself keeps the IR that led to it in <name>.fault.

    Example: vamc-py compile examples/hf_qwen3_int8.yaml --set workspace.path=/srv/models --dump-ir dump
    """
    from vamc_py.config import load_config
    from vamc_py.extras import require_compiler
    from vamc_py.interrupts import ended_by_signals

    loaded = load_config(config, overrides or ())
    for notice in loaded.notices:
        typer.echo(f"notice: {notice}", err=True)
    require_compiler()
    with ended_by_signals():
        from vamc_py.inspect.watch import Inspection
        from vamc_py.log import logged_to

        inspection = Inspection(dump_ir, tuple(print_after or ()), until, only_function)
        verbosity = max(verbose, int(loaded.config.workspace.save_log is True))
        log = loaded.config.artifact_dir.with_name(f"{loaded.config.name}.log")
        with logged_to(log, verbosity) if verbosity else nullcontext():
            _run(loaded, inspection)
    if verbosity:
        typer.echo(f"log: {log}", err=True)


def _run(loaded: LoadedConfig, inspection: Inspection) -> None:
    from vamc_py.compiler import compile_config, show_passes

    if inspection.until is not None:
        show_passes(loaded, inspection)
        return
    compiled = compile_config(loaded, inspection)
    for note in compiled.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(compiled.folder)
