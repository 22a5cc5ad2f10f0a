"""``vamc-py check``: where the module stops computing what the model computes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("check")(check)


def check(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The YAML file.")],
    layers: Annotated[int, typer.Option("--layers", min=1, help="Layers of the model to run, from the first.")] = 2,
    tokens: Annotated[
        int | None,
        typer.Option("--tokens", min=2, help="Tokens of the longer of the two prompts. Default: 40, or what fits."),
    ] = None,
    bisect: Annotated[
        bool,
        typer.Option("--bisect", help="Cut a wrong pass's module down to the least that shows it, and keep that."),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Where --bisect puts it. Default: <workspace.path>/<name>.reproducer"
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override one value, read as YAML; may be given again."),
    ] = None,
) -> None:
    """Run the torch model and, after each pass, the module, on real weights of the first layers; compare the logits.

    Prints the error of each stage. Where a pass moves the logits further than it may, names the pass, the function and
    the first operator that differs, and exits with 1. The vocabulary is cut to its first 4096 tokens. For tvm_vacc the
    passes up to shard-tensors are checked; what comes behind it is computed by `vamc-py run`, in simulation.

    Example: vamc-py check examples/hf_qwen3_int8.yaml --layers 1
    """
    from vamc_py.config import load_config
    from vamc_py.errors import UserError
    from vamc_py.extras import require_compiler
    from vamc_py.interrupts import ended_by_signals

    if output is not None and not bisect:
        raise UserError("-o is where --bisect puts what it makes; say --bisect too")
    loaded = load_config(config, overrides or ())
    for notice in loaded.notices:
        typer.echo(f"notice: {notice}", err=True)
    require_compiler()
    with ended_by_signals():
        from vamc_py.check.check import Checker
        from vamc_py.check.reproducer import check_output
        from vamc_py.check.results import CheckResult, sentences, table

        folder = output or loaded.config.artifact_dir.with_name(f"{loaded.config.name}.reproducer")
        if bisect:
            check_output(folder)
        result = CheckResult()
        checker = Checker(loaded, tokens=tokens)
        try:
            faulty = checker.run(layers, result)
        finally:
            for line in table(result):
                typer.echo(line)
        if result.finding is None:
            typer.echo(f"every stage keeps to its tolerance: {result.description}")
            if loaded.config.target == "vacc":
                typer.echo(
                    "not checked: shard-tensors and the runstreams behind it; `vamc-py run` computes them", err=True
                )
            return
        for line in sentences(result.finding):
            typer.echo(line)
        if bisect and faulty is not None:
            from vamc_py.check.bisect import bisect as cut_down

            typer.echo(cut_down(checker, faulty, layers, folder))
    raise typer.Exit(1)
