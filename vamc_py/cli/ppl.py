"""``vamc-py ppl``."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(name="ppl")(command)


def command(
    artifact: Annotated[Path, typer.Argument(help="The folder that `vamc-py compile` wrote.", metavar="ARTIFACT")],
    text: Annotated[Path, typer.Option(help="A UTF-8 text file.")],
    context: Annotated[int, typer.Option(help="Tokens in a window.")] = 512,
    chunks: Annotated[int | None, typer.Option(help="Windows to score; by default all.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads; by default VAMC_NUM_THREADS, else all cores.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Perplexity on a text, in windows of which the second half is scored, as llama.cpp does.

    Example: vamc-py ppl build/smollm2 --text wiki.test.raw --chunks 40
    """
    from vamc_py.artifact.manifest import VaccManifest
    from vamc_py.artifact.verify import read_any_manifest
    from vamc_py.runtime.executor import Executor
    from vamc_py.runtime.perplexity import Stepper, perplexity, tokenize, windows
    from vamc_py.runtime.vacc import VaccExecutor

    executor: Stepper
    if isinstance(read_any_manifest(artifact), VaccManifest):
        executor = simulated = VaccExecutor.load(artifact, context=context, threads=threads)
        typer.echo(simulated.dies.simulation.notice(), err=True)
    else:
        executor = Executor.load(artifact, context=context, threads=threads)
    result = perplexity(executor, windows(tokenize(artifact, text), context, chunks))
    print(json.dumps(dataclasses.asdict(result)) if as_json else f"ppl {result.ppl:.4f} over {result.tokens} tokens")
