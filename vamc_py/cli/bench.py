"""``vamc-py bench``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(name="bench")(command)


def command(
    artifact: Annotated[Path, typer.Argument(help="The folder that `vamc-py compile` wrote.", metavar="ARTIFACT")],
    prefill: Annotated[int, typer.Option(help="Tokens of the prompt.")] = 512,
    decode: Annotated[int, typer.Option(help="Tokens decoded one at a time.")] = 32,
    context: Annotated[int, typer.Option(help="Positions in the cache before decoding.")] = 128,
    repeats: Annotated[int, typer.Option(help="Rounds; the figures are medians over them.")] = 5,
    threads: Annotated[int | None, typer.Option(help="Threads; by default all cores this process may use.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure prefill and decode beside the machine's limits, which are measured in the same run.

    Example: vamc-py bench build/smollm2 --prefill 512 --decode 32 --context 128
    """
    from rich.console import Console

    from vamc_py.runtime.bench import Settings, bench

    settings = Settings(prefill=prefill, decode=decode, context=context, repeats=repeats)
    result = bench(artifact, settings, threads=threads)
    if as_json:
        print(json.dumps(result))
    else:
        Console().print(_table(result))


def _table(result: dict[str, Any]) -> Table:
    from rich.table import Table

    machine, prefill, decode = result["machine"], result["prefill"], result["decode"]
    table = Table(title=f"{machine['cpu']}, {machine['threads']} threads")
    for heading in ("", "tokens/s", "share of limit", "limit"):
        table.add_column(heading, justify="left" if heading in ("", "limit") else "right")
    peaks = f"int8 {machine['int8_gops']:.0f}, fp32 {machine['fp32_gops']:.0f} Gop/s"
    for name, part, limit in (
        (f"prefill, {prefill['tokens']} tokens", prefill, peaks),
        (f"decode after {decode['context']}", decode, f"{machine['read_gb_s']:.1f} GB/s"),
    ):
        table.add_row(name, f"{part['tokens_per_s']:.1f}", f"{part['share_of_limit']:.1%}", limit)
    return table
