"""``vamc-py eval``: whether a quantized model is still the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(name="eval")(command)


def command(
    subject: Annotated[Path, typer.Argument(metavar="CONFIG|ARTIFACT", help="A YAML file, or an artifact's folder.")],
    text: Annotated[Path | None, typer.Option(help="A UTF-8 text that was not used for calibration.")] = None,
    context: Annotated[int, typer.Option(help="Tokens in a window of the text.")] = 512,
    chunks: Annotated[int | None, typer.Option(help="Windows to score; by default all.")] = None,
    choices: Annotated[
        list[Path] | None,
        typer.Option(help="Multiple choice: C-Eval's zip, or csv or jsonl as MMLU's; may be given again."),
    ] = None,
    shots: Annotated[int, typer.Option(help="Examples before each question.")] = 0,
    limit: Annotated[int | None, typer.Option(help="Questions of a subject; by default all.")] = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="ARTIFACT|none", help="What to compare with; by default the float model, compiled."),
    ] = None,
    scheme: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TYPE[,KEY=VALUE]",
            help="With a CONFIG: a quantize.type to compile it with (or fp32, fp16, bf16), and other keys of "
            "frontend.quantize; may be given again.",
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="With a CONFIG: override one value; may be given again."),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where what is compiled for this is kept. Default: .eval in the workspace, or beside the artifact.",
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads; by default VAMC_NUM_THREADS, else all cores.")] = None,
    as_json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all figures there, too; - is stdout alone.")
    ] = None,
) -> None:
    """Perplexity, next-token agreement, KL divergence and multiple choice, beside the float model.

    Prints a table by scheme. The float model is compiled from the same configuration and kept, for it is needed again.

    Example: vamc-py eval my_model.yaml --scheme w8a16 --scheme w4a16 --text wiki.test.raw --chunks 40
    """
    from vamc_py.errors import UserError
    from vamc_py.evaluation.evaluate import Settings, evaluate
    from vamc_py.evaluation.models import artifact_models, config_models
    from vamc_py.evaluation.table import show
    from vamc_py.interrupts import ended_by_signals

    if text is None and not choices:
        raise UserError("nothing to measure: give --text, --choices or both")
    settings = Settings(text, chunks, context, tuple(choices or ()), shots, limit, threads)
    with ended_by_signals():
        if not subject.is_dir():
            models = config_models(subject, overrides or (), scheme or (), against, cache)
        elif scheme or overrides:
            raise UserError(f"{subject}: an artifact is compiled already; --scheme and --set go with a CONFIG")
        else:
            models = artifact_models(subject, against, cache)
        result = evaluate(models, settings, reference=against != "none")
    record = json.dumps(result.record(), indent=1, ensure_ascii=False)
    if str(as_json) == "-":
        print(record)
        return
    show(result)
    if as_json is not None:
        try:
            as_json.write_text(record + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"--json {as_json}: cannot be written ({error.strerror})") from error
