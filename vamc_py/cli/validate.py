"""``vamc-py validate``: check a configuration without touching the checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vamc_py.config import Config, LoadedConfig


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

    Every key is explained in docs/yaml_reference.md. Passes from a file are looked at, too, which runs the file.

    Example: vamc-py validate examples/01_smollm2_int8.yaml --set backend.dtype=fp32
    """
    from vamc_py.config import check_compilable, load_config
    from vamc_py.errors import ConfigError

    loaded = load_config(config, overrides or ())
    for notice in loaded.notices:
        typer.echo(f"notice: {notice}", err=True)
    _check_passes(loaded)
    typer.echo(f"{config}: valid: {summary(loaded.config)}")
    try:
        check_compilable(loaded)
    except ConfigError as error:
        for fault in error.faults:
            typer.echo(f"does not compile: {fault}", err=True)


def _check_passes(loaded: LoadedConfig) -> None:
    """ConfigError where the section ``passes`` makes no list that can run. TVM is only loaded where there is one."""
    from vamc_py.config.compilable import COMPILED_TARGETS
    from vamc_py.errors import UserError
    from vamc_py.extras import require_compiler

    if not loaded.config.passes or loaded.config.target not in COMPILED_TARGETS:
        return
    try:
        require_compiler()
    except UserError:
        typer.echo("notice: passes is not checked, as the compiler's packages are not installed here.", err=True)
        return
    from vamc_py.pipeline.resolve import resolve_pipeline

    resolve_pipeline(loaded)


def summary(config: Config) -> str:
    """What would be built, on one line."""
    weights = config.backend.dtype + (f" ({config.quantize_type})" if config.quantize_type else "")
    build = f"{config.name}, {config.frontend.type} to {config.backend.type}, {weights}"
    if not config.language_model:
        return build
    context = "prefill only" if config.prefill_only else f"context {config.context_length}"
    return f"{build}, prefill {config.prefill_length}, {context}"
