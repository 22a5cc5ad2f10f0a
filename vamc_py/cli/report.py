"""``vamc-py report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(name="report")(command)


def command(
    path: Annotated[
        Path,
        typer.Argument(
            help="An artifact, or a folder that `vamc-py compile --dump-ir` wrote.", metavar="ARTIFACT|DUMP"
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write.")] = Path("report.html"),
    no_measure: Annotated[
        bool,
        typer.Option(
            "--no-measure", help="Run nothing: the report then has neither the machine's limits nor the kernels' times."
        ),
    ] = False,
) -> None:
    """Write a page that shows what the compiler did: passes, graph, memory, and kernels against the machine's limits.

    Example: vamc-py report build/smollm2 -o report.html
    """
    from vamc_py.inspect.report_file import write_report

    write_report(path, output, measure=not no_measure)
    print(output)
