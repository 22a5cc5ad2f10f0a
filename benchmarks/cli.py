"""The command line of the benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.engine import MEASURES
from benchmarks.stages import Benchmark, Plan, say
from vamc_py.errors import UserError
from vamc_py.interrupts import ended_by_signals
from vamc_py.leaving import faults_end

STAGES = ("set-up", "convert", "measure", "report")
_ROOT = Path(__file__).resolve().parent.parent


def numbers(option: str, text: str) -> tuple[int, ...]:
    """``128,512`` as numbers; UserError names the option where one is none or below 1."""
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = (0,)
    if min(found) < 1:
        raise UserError(f"{option} {text}: write numbers from 1 on with commas between them, such as 128,512")
    return tuple(dict.fromkeys(found))


def choices(option: str, given: list[str] | None, known: tuple[str, ...]) -> tuple[str, ...]:
    """Those of ``known`` that were given, all where none was; UserError for others."""
    for one in given or ():
        if one not in known:
            raise UserError(f"{option} {one}: there is {', '.join(known)}")
    return tuple(one for one in known if not given or one in given)


def command(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME: random weights in the shape of qwen3-0.6b or qwen3-1.7b. NAME=PATH: a Hugging Face folder or a "
            "GGUF file. May be given several times. Default: qwen3-0.6b.",
            metavar="NAME[=PATH]",
        ),
    ] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(help="An engine; may be given several times. Default: those that fit each model."),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Rounds, in each of which all engines run by turns.")] = 5,
    only: Annotated[
        list[str] | None, typer.Option(help=f"Only this stage: {', '.join(STAGES)}. May be given several times.")
    ] = None,
    measure: Annotated[
        list[str] | None, typer.Option(help=f"Only this measure: {', '.join(MEASURES)}. May be given several times.")
    ] = None,
    prefill: Annotated[str, typer.Option(help="Lengths of prompts, in tokens.")] = "128,512,1024",
    decode: Annotated[str, typer.Option(help="Tokens in the cache before decoding.")] = "128,512,1024,1920",
    batch: Annotated[str, typer.Option(help="Numbers of sequences that decode together.")] = "4,16",
    repeats: Annotated[int, typer.Option(help="Samples of each length and context in a process.")] = 2,
    threads: Annotated[
        int | None,
        typer.Option(help="Threads of each engine. Default: VAMC_NUM_THREADS, or the cores this process may use."),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="A folder with the tokenizer of random models. Default: one of the benchmark's own making."),
    ] = None,
    folder: Annotated[
        Path, typer.Option(help="Where environments, checkpoints and conversions lie: some 10 GB for a small model.")
    ] = Path("build/benchmarks"),
    results: Annotated[
        Path | None, typer.Option(help="The raw samples, to which new ones are added. Default: results.json there.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(help="Stop measuring after so many seconds; the next call goes on from there.")
    ] = None,
    write_docs: Annotated[
        bool, typer.Option("--write-docs", help="Put tables and plots into docs/performance.md and docs/images.")
    ] = False,
) -> None:
    """Compare vamc-py with other engines on this machine: set them up, convert the models, measure in rounds, report.

    Nothing is done twice: environments, checkpoints, conversions and samples are kept in --folder, and a later call
    goes on from there. Run it on an otherwise idle machine.

    Example: python benchmarks/run.py --model qwen3-0.6b --model smollm2=SmolLM2-135M-Instruct.Q4_1.gguf --rounds 5
    """
    from benchmarks.checkpoints import ModelChoice
    from benchmarks.report import report
    from vamc_py.runtime.threads import chosen_threads

    for option, value in (("--rounds", rounds), ("--repeats", repeats)):
        if value < 1:
            raise UserError(f"{option} {value}: at least 1 is wanted")
    stages = choices("--only", only, STAGES)
    plan = Plan(
        folder=folder.resolve(),
        results=(results or folder / "results.json").resolve(),
        models=tuple(ModelChoice.parse(text) for text in model or ["qwen3-0.6b"]),
        engines=tuple(engine or ()),
        measures=choices("--measure", measure, MEASURES),
        lengths=numbers("--prefill", prefill),
        contexts=numbers("--decode", decode),
        batches=numbers("--batch", batch),
        rounds=rounds,
        repeats=repeats,
        threads=chosen_threads(threads),
        tokenizer=tokenizer,
    )
    benchmark = Benchmark(plan)
    if {"set-up", "convert", "measure"} & set(stages):
        benchmark.prepare()
    if "convert" in stages:
        benchmark.convert()
    if "measure" in stages and not benchmark.measure(seconds):
        say("the time is over; call again to go on")
        return
    if "report" in stages:
        print(report(benchmark.results, plan.folder, _ROOT if write_docs else None))


def build_app() -> typer.Typer:
    """The command; its exceptions reach the caller as they are."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(command)
    return app


def main() -> None:
    """Run it on the process's arguments; exit code 2 with a sentence where they are at fault."""
    with faults_end("benchmarks/run.py"), ended_by_signals():
        typer.main.get_command(build_app()).main(prog_name="benchmarks/run.py")
