"""``vamc-py runstream``: the static programs of an artifact of vacc, shown and compared."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from vamc_py.runstream.program import Program, Stage

_WIDTH = 130  # columns, where the output is no terminal that says its own
_COLOURS = {"- ": "red", "+ ": "green", "@@": "cyan"}


class StageName(StrEnum):
    """A stage."""

    prefill = "prefill"
    decode = "decode"


_STAGE = typer.Option(help="Of an artifact: this stage.")
_RANK = typer.Option(help="Of an artifact: this rank.")


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    runstream = typer.Typer(
        no_args_is_help=True,
        rich_markup_mode=None,
        help="Look into the programs of an artifact of vacc, for vamc-py's own model of the device.",
    )
    runstream.command("show")(show)
    runstream.command("diff")(diff)
    app.add_typer(runstream, name="runstream")


def show(
    path: Annotated[Path, typer.Argument(metavar="PROGRAM|ARTIFACT", help="A mod.json, its folder, or an artifact.")],
    stage: Annotated[StageName | None, _STAGE] = None,
    rank: Annotated[int | None, _RANK] = None,
    first: Annotated[int | None, typer.Option(help="List commands from this number on.")] = None,
    last: Annotated[int | None, typer.Option(help="List commands up to this number.")] = None,
) -> None:
    """Show a program operator by operator, alike layers once, or its commands; of an artifact list the programs.

    Example: vamc-py runstream show build/qwen3-vacc --stage decode --rank 0 --first 0 --last 40
    """
    from rich.console import Console

    programs = _programs(path, stage, rank)
    commands = first is not None or last is not None
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    if len(programs) > 1 and not (stage or rank is not None or commands):
        console.print(_overview(path, programs))
        return
    program = programs[0]
    if commands:
        for line in _command_lines(program, first or 0, len(program.commands) - 1 if last is None else last):
            print(line)
        return
    for name, value in _head(program):
        console.print(f"{name:<10} {value}", highlight=False, soft_wrap=True)
    console.print(_operators(program))


def diff(
    first: Annotated[Path, typer.Argument(metavar="A", help="A mod.json, its folder, or an artifact.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="What to compare with, of the same form.")],
    stage: Annotated[StageName | None, _STAGE] = None,
    rank: Annotated[int | None, _RANK] = None,
) -> None:
    """Show where two programs differ, operator by operator; of artifacts, all of their programs.

    Example: vamc-py runstream diff build/before build/after --stage decode --rank 0
    """
    from vamc_py.runstream.comparison import differences

    before, after = ({_title(one): one for one in _programs(path, stage, rank)} for path in (first, second))
    if len(before) == len(after) == 1:
        lines = differences(next(iter(before.values())), next(iter(after.values())))
        _print(lines or ["the programs are the same"])
        return
    folded: dict[tuple[str, ...], list[str]] = {}
    for title in {**before, **after}:
        if title in before and title in after:
            lines = differences(before[title], after[title]) or ["the programs are the same"]
        else:
            lines = [f"{'- ' if title in before else '+ '}{title}"]
        folded.setdefault(tuple(lines), []).append(title)
    for changed, titles in folded.items():
        _print([f"== {', '.join(titles)}", *changed])


def _programs(path: Path, stage: StageName | None, rank: int | None) -> list[Program]:
    """The program of a file or a folder, or those of an artifact that were asked for. UserError where there is none."""
    from vamc_py.errors import UserError
    from vamc_py.runstream.file import read_program
    from vamc_py.runstream.folder import STAGES, is_artifact, read_stages

    if not is_artifact(path):
        if stage is not None or rank is not None:
            raise UserError(f"{path}: --stage and --rank choose from an artifact, and this is none")
        return [read_program(path)]
    wanted: list[Stage] = [name for name in STAGES if stage is None or name == stage.value]
    found = [program for programs in read_stages(path, wanted).values() for program in programs]
    chosen = [program for program in found if rank is None or program.rank == rank]
    if not chosen:
        raise UserError(f"{path}: there is no rank {rank}; ranks are 0 to {found[0].ranks - 1}")
    return chosen


def _title(program: Program) -> str:
    return f"{program.stage} rank {program.rank}"


def _overview(path: Path, programs: list[Program]) -> Table:
    from rich.table import Table

    from vamc_py.runstream.listing import megabytes

    table = Table(title=f"{path}: programs for {programs[0].device}, a device model")
    for heading in ("stage", "rank", "tokens", "context", "commands", "kernels", "DDR", "SSRAM"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    for one in programs:
        numbers = (one.rank, one.tokens, one.context, len(one.commands), len(one.kernels))
        memory = (megabytes(one.ddr_bytes), megabytes(one.ssram_bytes))
        table.add_row(one.stage, *map(str, numbers), *memory)
    return table


def _head(program: Program) -> list[tuple[str, str]]:
    from vamc_py.runstream.listing import head

    return head(program)


def _operators(program: Program) -> Table:
    from rich.table import Table

    from vamc_py.runstream.listing import megabytes, rows

    table = Table(title="operators, in the order of their first commands; figures are of one layer")
    for heading in ("operator", "layers", "first", "commands", "read", "written", "exchanged"):
        table.add_column(heading, justify="left" if heading == "operator" else "right", overflow="fold")
    table.add_column("kernels", overflow="fold")
    for row in rows(program):
        sizes = (row.totals.read, row.totals.written, row.totals.exchanged)
        cells = (str(len(row.labels)) if len(row.labels) > 1 else "", str(row.first), str(row.totals.commands))
        memory = (megabytes(size) if size else "" for size in sizes)
        table.add_row(row.label, *cells, *memory, ", ".join(row.totals.kernels))
    return table


def _command_lines(program: Program, first: int, last: int) -> Iterable[str]:
    from vamc_py.errors import UserError
    from vamc_py.runstream.listing import command_line

    count = len(program.commands)
    if not 0 <= first <= last < count:
        raise UserError(f"there are commands 0 to {count - 1}; --first {first} --last {last} is no part of them")
    width = len(str(last))
    for number in range(first, last + 1):
        command = program.commands[number]
        waits = f", after {' '.join(map(str, command.waits))}" if command.waits else ""
        label = f"  # {command.label}" if command.label else ""
        yield f"{number:>{width}} {command_line(command)}{waits}{label}"


def _print(lines: Iterable[str]) -> None:
    """Lines with the colours of a difference, on a terminal."""
    for line in lines:
        colour = _COLOURS.get(line[:2]) if sys.stdout.isatty() else None
        typer.echo(typer.style(line, fg=colour) if colour else line)
