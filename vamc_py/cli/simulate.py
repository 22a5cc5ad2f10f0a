"""``vamc-py simulate``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from vamc_py.runstream.program import Stage
    from vamc_py.runstream.timing import Timeline

_BUSIEST, _MOST_WAITS = 2, 4
_WIDTH = 130  # columns, where the output is no terminal that says its own


class Only(StrEnum):
    """A stage."""

    prefill = "prefill"
    decode = "decode"


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(name="simulate")(command)


def command(
    subject: Annotated[
        Path,
        typer.Argument(help="A YAML file for tvm_vacc, or what `compile` made of it.", metavar="CONFIG|ARTIFACT"),
    ],
    trace: Annotated[Path | None, typer.Option(help="Write a trace for Perfetto or Chrome.", metavar="FILE")] = None,
    only: Annotated[Only | None, typer.Option(help="This stage only.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="With a CONFIG: override one value; may be given again."),
    ] = None,
) -> None:
    """Estimate how long programs for vacc take, by vamc-py's own model of the device; nothing is computed.

    Of a CONFIG the programs are written in memory: of its checkpoint only the headers are read, nothing is compiled for
    the host, and no folder is written.

    Example: vamc-py simulate examples/03_qwen3_vacc_tp4.yaml --set frontend.checkpoint=Qwen3-8B --trace trace.json
    """
    from rich.console import Console

    from vamc_py.errors import UserError
    from vamc_py.runstream.summary import summary
    from vamc_py.runstream.trace import write_trace

    if subject.is_dir() and overrides:
        raise UserError(f"{subject}: an artifact is compiled already; --set goes with a CONFIG")
    timelines = _of_artifact(subject, only) if subject.is_dir() else _of_config(subject, overrides or (), only)
    result = summary(timelines)
    if trace is not None:
        write_trace(trace, timelines)
    if as_json:
        print(json.dumps(result))
        return
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    for stage, found in result["stages"].items():
        console.print(_figures(stage, found, result["device"]["name"]))
        for die in found["dies"]:
            console.print(_engines(die, found))
            console.print(_waits(die, found))
    console.print(result["statement"], highlight=False, soft_wrap=True)
    for sentence in result["assumptions"]:
        console.print(f"* {sentence}", highlight=False, soft_wrap=True)
    if trace is not None:
        console.print(f"trace: {trace} (open it in ui.perfetto.dev)", highlight=False, soft_wrap=True)


def _of_artifact(artifact: Path, only: Only | None) -> list[Timeline]:
    from vamc_py.runstream.folder import read_device, read_stages
    from vamc_py.runstream.timing import simulate

    programs = read_stages(artifact, _stages(only))
    device = read_device(artifact)
    return [simulate(stage, device) for stage in programs.values()]


def _of_config(config: Path, overrides: Sequence[str], only: Only | None) -> list[Timeline]:
    from vamc_py.config import load_config
    from vamc_py.extras import require_compiler
    from vamc_py.interrupts import ended_by_signals

    loaded = load_config(config, overrides)
    for notice in loaded.notices:
        typer.echo(f"notice: {notice}", err=True)
    require_compiler()
    with ended_by_signals():
        from vamc_py.compiler import write_programs
        from vamc_py.progress import stage
        from vamc_py.runstream.timing import simulate

        runs = write_programs(loaded)
        with stage("timing"):
            return [simulate(runs.programs(name), runs.device) for name in _stages(only)]


def _stages(only: Only | None) -> list[Stage]:
    from vamc_py.runstream.folder import STAGES

    return [stage for stage in STAGES if only is None or stage == only.value]


def _figures(stage: str, found: dict[str, Any], device: str) -> Table:
    from rich.table import Table

    table = Table(title=f"{stage}, {found['tokens']} tokens, context {found['context']}: {_dies(found)} of {device}")
    for heading in ("estimate", "", "of peak"):
        table.add_column(heading, justify="left" if heading == "estimate" else "right")
    rate = found["tokens_per_s"]
    table.add_row("a step", f"{found['seconds'] * 1e3:.3f} ms", "")
    table.add_row("tokens/s", "-" if rate is None else f"{rate:,.1f}", "")
    for name in ("ssram", "ddr"):
        planned = found["memory"][name]
        table.add_row(f"{name.upper()} planned", f"{planned['bytes'] / 1e6:,.1f} MB", f"{planned['share']:.1%}")
    for die in found["dies"]:
        name = "" if len(found["dies"]) == 1 else f", ranks {_ranks(die['ranks'])}"
        matrix, linear, ddr = die["matrix"], die["linear"], die["ddr"]
        table.add_section()
        table.add_row(f"DDR{name}", f"{ddr['bytes'] / 1e6:,.1f} MB", f"{ddr['share_of_peak']:.1%}")
        table.add_row(f"matrix units{name}", _operations(matrix), f"{matrix['share_of_peak_over_stage']:.1%}")
        table.add_row("  in linear layers", _operations(linear), f"{linear['share_of_peak']:.1%}")
        table.add_row("  while these run", f"{linear['active_s'] * 1e3:.3f} ms", _share(linear))
        communication = die["communication"]
        exposed = f"{communication['exposed_share']:.1%} with nothing beside it"
        table.add_row(f"communication{name}", f"{communication['share']:.1%} of the time", "")
        table.add_row("", exposed, "")
    return table


def _engines(die: dict[str, Any], found: dict[str, Any]) -> Table:
    from rich.table import Table

    ranks = "" if len(found["dies"]) == 1 else f", ranks {_ranks(die['ranks'])}"
    table = Table(title=f"engines of a die{ranks}")
    for heading in ("engine", "commands", "busy", "idle, waiting for"):
        table.add_column(heading, justify="right" if heading in ("commands", "busy") else "left")
    for name, engine in die["engines"].items():
        if not engine["commands"]:
            continue
        idle = (f"{cause} {seconds / found['seconds']:.1%}" for cause, seconds in engine["idle_s"].items())
        table.add_row(name, str(engine["commands"]), f"{engine['share']:.1%}", ", ".join(idle))
    return table


def _waits(die: dict[str, Any], found: dict[str, Any]) -> Table:
    """Of the busiest engines: in prefill the matrix units, in decode those that bring weights."""
    from rich.table import Table

    busiest = sorted(die["engines"], key=lambda name: -die["engines"][name]["busy_s"])[:_BUSIEST]
    table = Table(title="what keeps the busiest engines waiting")
    for heading in ("engine", "of the time", "times", "operator", "waits for"):
        table.add_column(heading, justify="right" if heading in ("of the time", "times") else "left", overflow="fold")
    for name in busiest:
        for wait in die["waits"][name][:_MOST_WAITS]:
            share = f"{wait['seconds'] / found['seconds']:.1%}"
            cause = " ".join(filter(None, (wait["cause"], wait["cause_label"])))
            table.add_row(name, share, str(wait["times"]), wait["label"] or "(no label)", cause)
    return table


def _dies(found: dict[str, Any]) -> str:
    return "1 die" if found["ranks"] == 1 else f"{found['ranks']} dies"


def _ranks(ranks: list[int]) -> str:
    return ", ".join(map(str, ranks))


def _operations(part: dict[str, Any]) -> str:
    return f"{sum(part['operations'].values()) / 1e9:,.2f} Gop"


def _share(part: dict[str, Any]) -> str:
    return f"{part['share_of_peak_while_active']:.1%}"
