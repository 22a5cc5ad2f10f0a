"""``vamc-py bench``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from vamc_py.inspect.profile import StepProfile

_PROFILE_WIDTH = 130  # columns, where the output is no terminal that says its own


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(name="bench")(command)


def command(
    artifact: Annotated[Path, typer.Argument(help="The folder that `vamc-py compile` wrote.", metavar="ARTIFACT")],
    prefill: Annotated[int, typer.Option(help="Tokens of the prompt.")] = 512,
    decode: Annotated[int, typer.Option(help="Tokens decoded one at a time.")] = 32,
    context: Annotated[int, typer.Option(help="Positions in the cache before decoding.")] = 128,
    repeats: Annotated[int, typer.Option(help="Rounds; the figures are medians over them.")] = 5,
    threads: Annotated[int | None, typer.Option(help="Threads; by default VAMC_NUM_THREADS, else all cores.")] = None,
    profile: Annotated[bool, typer.Option("--profile", help="Show each kernel of one decode and one prefill.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure prefill and decode beside the machine's limits, which are measured in the same run.

    Example: vamc-py bench build/smollm2 --prefill 512 --decode 32 --context 128
    """
    from rich.console import Console

    if profile:
        _profile(artifact, context=context, prefill=prefill, repeats=repeats, threads=threads, as_json=as_json)
        return

    from vamc_py.runtime.bench import Settings, bench

    settings = Settings(prefill=prefill, decode=decode, context=context, repeats=repeats)
    result = bench(artifact, settings, threads=threads)
    if as_json:
        print(json.dumps(result))
    else:
        Console().print(_table(result))


def _profile(artifact: Path, *, context: int, prefill: int, repeats: int, threads: int | None, as_json: bool) -> None:
    from dataclasses import asdict

    from rich.console import Console

    from vamc_py.inspect.profile import ProfileSettings, profile  # loads the compiler, which reads the artifact's ir/

    result = profile(artifact, ProfileSettings(context, prefill, repeats), threads=threads)
    if as_json:
        print(json.dumps({**asdict(result), "limits": result.limits.model_dump()}))
        return
    limits = result.limits
    peaks = [("int8", limits.int8_peak), ("bf16", limits.bf16_peak), ("fp32", limits.float_peak)]
    console = Console(width=None if sys.stdout.isatty() else _PROFILE_WIDTH)
    for step in (result.decode, result.prefill):
        console.print(_profile_table(step))
    measured = ", ".join(f"{name} {peak / 1e9:.0f}" for name, peak in peaks if peak)
    console.print(f"{limits.machine}: {limits.bandwidth / 1e9:.1f} GB/s; {measured} Gop/s", highlight=False)


def _profile_table(step: StepProfile) -> Table:
    from rich.table import Table

    table = Table(title=step.title)
    table.add_column("kernel", overflow="fold")
    for heading in ("calls", "us", "of step", "MB", "Mop", "GB/s", "Gop/s", "of limit"):
        table.add_column(heading, justify="right")
    for row in step.rows:
        rates = (row.bytes / row.seconds / 1e9, row.operations / row.seconds / 1e9)
        table.add_row(
            *(row.kernel, str(row.calls), *_time(row.seconds, step)),
            *(f"{row.bytes / 1e6:.2f}", f"{row.operations / 1e6:.2f}", f"{rates[0]:.1f}", f"{rates[1]:.1f}"),
            f"{row.share_of_limit:.0%} {row.bound}",
        )
    table.add_section()
    table.add_row("between kernels: virtual machine, clock", "", *_time(step.machine_seconds, step))
    table.add_row("around them: Python, hand-over to the thread", "", *_time(step.python_seconds, step))
    table.add_section()
    table.add_row("the step", "", *_time(step.seconds, step))
    table.add_row("without the clock", "", f"{step.plain_seconds * 1e6:.0f}")
    return table


def _time(seconds: float, step: StepProfile) -> tuple[str, str]:
    return f"{seconds * 1e6:.0f}", f"{seconds / step.seconds:.1%}"


def _table(result: dict[str, Any]) -> Table:
    from rich.table import Table

    machine, prefill, decode = result["machine"], result["prefill"], result["decode"]
    table = Table(title=f"{machine['cpu']}, {machine['threads']} threads")
    for heading in ("", "tokens/s", "share of limit", "limit"):
        table.add_column(heading, justify="left" if heading in ("", "limit") else "right")
    kinds = [kind for kind in ("int8", "bf16", "fp32") if f"{kind}_gops" in machine]
    peaks = ", ".join(f"{kind} {machine[f'{kind}_gops']:.0f}" for kind in kinds) + " Gop/s"
    for name, part, limit in (
        (f"prefill, {prefill['tokens']} tokens", prefill, peaks),
        (f"decode after {decode['context']}", decode, f"{machine['read_gb_s']:.1f} GB/s"),
    ):
        table.add_row(name, f"{part['tokens_per_s']:.1f}", f"{part['share_of_limit']:.1%}", limit)
    return table
