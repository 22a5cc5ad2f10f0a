"""``vamc-py passes``: which passes there are, what one does, and which ones a configuration runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

_WIDEST = {"targets": 7, "options": 24}  # on a terminal, so that the sentences get what is left


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("passes")(passes)


def passes(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A pass, or a class of your own: path.py:Class.")
    ] = None,
    pipeline: Annotated[
        Path | None, typer.Option(metavar="CONFIG", help="Print the passes that this configuration runs, in order.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override one value of CONFIG; may be given again."),
    ] = None,
    as_yaml: Annotated[
        bool, typer.Option("--yaml", help="Print them as the section passes: of a configuration, to start from.")
    ] = False,
) -> None:
    """List the passes; explain the pass NAME with an example; or print what a configuration runs.

    Passes of installed packages are listed, too. How to write one is in docs/write_a_pass.md.

    Example: vamc-py passes --pipeline examples/hf_qwen3_int8.yaml --yaml
    """
    if pipeline is None and (overrides or as_yaml):
        raise typer.BadParameter("--set and --yaml go with --pipeline CONFIG")
    if pipeline is not None and name is not None:
        raise typer.BadParameter("give the name of a pass or --pipeline CONFIG, not both")
    if pipeline is not None:
        _print_pipeline(pipeline, overrides or (), as_yaml=as_yaml)
    elif name is not None:
        _explain(name)
    else:
        _list()


def _list() -> None:
    from vamc_py.pipeline.listing import COLUMNS, pass_rows

    _print_table(COLUMNS, pass_rows())


def _explain(name: str) -> None:
    from vamc_py.pipeline.listing import describe
    from vamc_py.pipeline.registry import find_pass

    for line in describe(find_pass(name)):
        typer.echo(line)


def _print_pipeline(config: Path, overrides: Sequence[str], *, as_yaml: bool) -> None:
    from vamc_py.config import load_config
    from vamc_py.pipeline.listing import pipeline_rows, pipeline_yaml
    from vamc_py.pipeline.resolve import resolve_pipeline

    resolved = resolve_pipeline(load_config(config, overrides))
    if as_yaml:
        for line in pipeline_yaml(resolved):
            typer.echo(line)
    else:
        _print_table(("", "pass", "stage", "options", "changed by"), pipeline_rows(resolved))


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """For a person a table as wide as the terminal; for a program one line a row."""
    from rich.console import Console

    from vamc_py.pipeline.listing import aligned

    console = Console()
    if not console.is_terminal:
        for line in aligned(rows):
            typer.echo(line)
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold", max_width=_WIDEST.get(column))
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)
