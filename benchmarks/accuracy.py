"""Accuracy of the arithmetics in which int8 weights meet activations: figures, and which layers to keep wide.

`compare` compiles and runs artifacts. `estimate` and `rank` need none: they round the activations in plain torch.
`wide` reads what `rank` wrote.

Example: python -m benchmarks.accuracy rank examples/01_smollm2_int8.yaml rank.jsonl --text wiki.test.raw
"""

from __future__ import annotations

import json
import math
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.accuracy_rank import By, Ranked, Results, Settings, difference, measure, recommend
from vamc_py.activation import Activation, default_wide
from vamc_py.artifact.manifest import TOKENIZER_DIR
from vamc_py.config import LoadedConfig, load_config
from vamc_py.errors import UserError
from vamc_py.leaving import faults_end
from vamc_py.progress import track
from vamc_py.runtime.perplexity import Tokens, perplexity, tokenize, windows

if TYPE_CHECKING:
    from collections.abc import Sequence

BATCH = 4  # windows run together in torch; of each the scored distributions are kept, 155 MB at 152,000 tokens
WIDE = "int16"

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, help=__doc__)

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="The YAML file of an int8 build.")]
Text = Annotated[Path, typer.Option(help="A UTF-8 text file.")]
Names = Annotated[list[str], typer.Option("--activation", metavar="NAME", help="An arithmetic; may be given again.")]
Patterns = Annotated[
    list[str] | None, typer.Option("--wide", metavar="PATTERN", help="Weights to keep at 16 bits; may be given again.")
]
Count = Annotated[int, typer.Option("--windows", help="Windows, from the start of the text.")]
Context = Annotated[int, typer.Option(help="Tokens in a window, the second half of which is scored.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one value; may be given again.")
]


@app.command()
def compare(
    config: ConfigFile,
    text: Text,
    activation: Names,
    wide: Patterns = None,
    count: Count = 40,
    context: Context = 512,
    rounds: Annotated[int, typer.Option(help="Rounds of measuring speed; 0 measures none.")] = 0,
    overrides: Overrides = None,
) -> None:
    """Compile an artifact for each arithmetic, and compare perplexity and speed with int16's.

    Each arithmetic is compiled twice, first for all weights, then with those of --wide kept at 16 bits (without it:
    with lm_head beside int8 activations, as by default). The artifacts stay in the workspace, named after the
    configuration and the arithmetic.

    Example: python -m benchmarks.accuracy compare examples/01_smollm2_int8.yaml --text wiki.test.raw
    --activation int8_g64 --activation int8_g128 --wide "*down_proj*" --rounds 5
    """
    from vamc_py.compiler import compile_config
    from vamc_py.runtime.executor import Executor

    loaded = builds(config, overrides or (), check_activations(activation), wide or ())
    folders = {name: compile_config(one).folder for name, one in loaded.items()}
    ppl = {}
    for name, folder in folders.items():
        executor = Executor.load(folder, context=context)
        ppl[name] = perplexity(executor, windows(tokenize(folder, text), context, count)).ppl
    speeds = measured_speeds(folders, rounds)
    table = _table(f"{count} windows of {context} tokens", "perplexity", "difference", "prefill tok/s", "decode tok/s")
    for name, value in ppl.items():
        figures = [f"{speed:.1f}" for speed in speeds.get(name, ())]
        table.add_row(name, f"{value:.4f}", f"{value / ppl[WIDE] - 1:+.2%}", *figures)
    Console().print(table)


@app.command()
def estimate(
    config: ConfigFile,
    text: Text,
    activation: Names,
    wide: Patterns = None,
    count: Count = 40,
    context: Context = 512,
    overrides: Overrides = None,
) -> None:
    """Perplexities with fake-quantized activations in every linear layer but those of --wide; nothing is compiled.

    The divergence, between the next token's distributions, needs far fewer windows than the perplexity to say which
    of two is better.

    Example: python -m benchmarks.accuracy estimate examples/01_smollm2_int8.yaml --text wiki.test.raw
    --activation int8_g64 --windows 8
    """
    from benchmarks.accuracy_model import Floats, WideRun, load_model, sites

    names = check_activations(activation)
    loaded = load_config(config, overrides or ())
    chosen = text_windows(loaded, text, context, count)
    module, model = load_model(loaded.config)
    where = [site for site in sites(model) if not site.matches(wide or ())]
    losses: dict[str, list[Floats]] = {name: [] for name in names}
    base = []
    for begin in track(range(0, count, BATCH), "windows"):
        run = WideRun(module, model, chosen[begin : begin + BATCH])
        base.append(run.nll)
        for name in names:
            losses[name].append(np.stack(run.loss(where, name)))
    nll = np.concatenate(base)
    table = _table(f"{count} windows of {context} tokens", "perplexity", "difference", "divergence, nats")
    table.add_row(WIDE, f"{math.exp(nll.mean()):.4f}", "", "")
    for label, parts in losses.items():
        narrow, divergence = np.concatenate(parts, axis=1)
        figures = (percent(*difference(narrow - nll)), f"{divergence.mean():.2e}")
        table.add_row(label, f"{math.exp(narrow.mean()):.4f}", *figures)
    Console().print(table)


@app.command()
def rank(
    config: ConfigFile,
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="The file to write, or to go on with.")],
    text: Text,
    activation: Annotated[str, typer.Option(metavar="NAME", help="The arithmetic.")] = "int8_g128",
    by: Annotated[By, typer.Option(help="What is narrow at a time: a kind of one layer, of all, or a layer.")] = "site",
    count: Count = 4,
    context: Context = 512,
    overrides: Overrides = None,
) -> None:
    """Measure what each linear layer loses when it alone has narrow activations; nothing is compiled.

    Each figure is written to RESULTS as soon as it is there; an interrupted ranking goes on where it stopped.

    Example: python -m benchmarks.accuracy rank examples/01_smollm2_int8.yaml rank.jsonl --text wiki.test.raw
    """
    from benchmarks.accuracy_model import WideRun, load_model

    name = check_activations([activation])[0]
    loaded = load_config(config, overrides or ())
    chosen = text_windows(loaded, text, context, count)
    file = Results(results, Settings(loaded.config.name, name, by, count, context))
    module, model = load_model(loaded.config)
    for line in measure(WideRun(module, model, chosen), file.settings, {line.target for line in file.lines}):
        file.add(line)
    _show_ranking(file.lines, file.lines)


@app.command()
def wide(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="The file that `rank` wrote.")],
    most: Annotated[float, typer.Option(help="Share of a prefill's multiplications that may be at 16 bits.")] = 0.1,
) -> None:
    """Choose what to keep wide: what takes most of the divergence away for the fewest multiplications.

    A prefill needs lm_head for one token only, so that it is free there; steps of more than 8 sequences pay for it.
    Prints the choice, and the list for frontend.quantize.wide.

    Example: python -m benchmarks.accuracy wide rank.jsonl --most 0.1
    """
    if not 0 < most <= 1:
        raise UserError(f"--most {most}: a share between 0 and 1 is wanted")
    file = Results(results)
    chosen = recommend(file.lines, most)
    _show_ranking(chosen, file.lines)
    patterns = [pattern for line in chosen for pattern in line.patterns]
    typer.echo(f"frontend.quantize.wide={json.dumps(patterns)}")


def check_activations(names: Sequence[str]) -> list[Activation]:
    """UserError for an unknown name, or for int16, which all are compared with."""
    for name in names:
        if name not in get_args(Activation) or name == WIDE:
            known = ", ".join(known for known in get_args(Activation) if known != WIDE)
            raise UserError(f"--activation {name}: one of {known} is wanted")
    return list(names)  # type: ignore[arg-type]


def builds(
    config: Path, overrides: Sequence[str], activations: Sequence[Activation], wide: Sequence[str]
) -> dict[str, LoadedConfig]:
    """The configurations to compare, by what the table calls them; int16 first."""
    name = load_config(config, overrides).config.name
    variants: dict[str, tuple[str, ...]] = {WIDE: (f"name={name}-{WIDE}", f"frontend.quantize.activation={WIDE}")}
    for activation in activations:
        key = f"frontend.quantize.activation={activation}"
        variants[activation] = (f"name={name}-{activation}", key, "frontend.quantize.wide=[]")
        if kept := list(wide or default_wide(activation)):
            variants[f"{activation}, wide"] = (
                f"name={name}-{activation}-wide", key, f"frontend.quantize.wide={json.dumps(kept)}",
            )  # fmt: skip
    return {label: load_config(config, [*overrides, *keys]) for label, keys in variants.items()}


def measured_speeds(folders: dict[str, Path], rounds: int) -> dict[str, tuple[float, float]]:
    """Medians of prefill and decode in tokens/s; the artifacts take turns, so that they see the same machine."""
    from vamc_py.runtime.bench import Settings as Measured
    from vamc_py.runtime.bench import bench

    samples: dict[str, list[tuple[float, float]]] = {}
    for _ in track(range(rounds), "rounds"):
        for name, folder in folders.items():
            result: dict[str, Any] = bench(folder, Measured(prefill=512, decode=32, context=128, repeats=1))
            speeds = (result["prefill"]["tokens_per_s"], result["decode"]["tokens_per_s"])
            samples.setdefault(name, []).append(speeds)
    return {
        name: (statistics.median(prefill), statistics.median(decode))
        for name, (prefill, decode) in ((name, zip(*taken, strict=True)) for name, taken in samples.items())
    }


def text_windows(loaded: LoadedConfig, text: Path, context: int, count: int) -> list[Tokens]:
    """The windows that `vamc-py ppl` takes, by the checkpoint's own tokenizer."""
    from vamc_py.compiler import open_model

    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder, TOKENIZER_DIR)
        directory.mkdir()
        open_model(loaded.config)[0].save_tokenizer(directory)
        return windows(tokenize(Path(folder), text), context, count)


def percent(change: float, error: float) -> str:
    """A change of the negative log-likelihood, in nats, as one of the perplexity."""
    return f"{math.expm1(change):+.2%} ± {error:.2%}"


def _show_ranking(lines: Sequence[Ranked], every: Sequence[Ranked]) -> None:
    """``lines`` by falling divergence, their shares those of ``every``, and their sum."""
    whole = sum(line.kl for line in every) or 1.0
    table = _table("narrow", "divergence, nats", "share", "of prefill", "perplexity")
    for line in sorted(lines, key=lambda line: line.kl, reverse=True):
        shares = (f"{line.kl / whole:.1%}", f"{line.share:.1%}")
        table.add_row(line.target, f"{line.kl:.2e}", *shares, percent(line.nll, line.error))
    kl, share = sum(line.kl for line in lines), sum(line.share for line in lines)
    table.add_row("sum", f"{kl:.2e}", f"{kl / whole:.1%}", f"{share:.1%}", "")
    Console().print(table)


def _table(*headings: str) -> Table:
    table = Table()
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index else "left")
    return table


def main() -> None:
    """Runs the command line; a fault of the input is one sentence on stderr and exit code 2."""
    with faults_end("accuracy"):
        app()


if __name__ == "__main__":
    main()
