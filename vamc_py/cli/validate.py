"""``vamc-py validate``: check a configuration without touching the checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vamc_py.config import Config


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("validate")(validate)


def validate(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The YAML file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override one value, read as YAML; may be given again."),
    ] = None,
) -> None:
    """Check a configuration: name every fault with its line, and what would not compile yet.

    Every key is explained in docs/yaml_reference.md.

    Example: vamc-py validate examples/01_smollm2_int8.yaml --set backend.dtype=fp32
    """
    from vamc_py.config import check_compilable, load_config
    from vamc_py.errors import ConfigError

    loaded = load_config(config, overrides or ())
    for notice in loaded.notices:
        typer.echo(f"notice: {notice}", err=True)
    typer.echo(f"{config}: valid: {summary(loaded.config)}")
    try:
        check_compilable(loaded)
    except ConfigError as error:
        for fault in error.faults:
            typer.echo(f"does not compile: {fault}", err=True)


def summary(config: Config) -> str:
    """What would be built, on one line."""
    weights = config.backend.dtype + (f" ({config.quantize_type})" if config.quantize_type else "")
    build = f"{config.name}, {config.frontend.type} to {config.backend.type}, {weights}"
    if not config.language_model:
        return build
    context = "prefill only" if config.prefill_only else f"context {config.context_length}"
    return f"{build}, prefill {config.prefill_length}, {context}"
