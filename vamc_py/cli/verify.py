"""``vamc-py verify``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(name="verify")(command)


def command(
    artifact: Annotated[Path, typer.Argument(help="The folder that `vamc-py compile` wrote.", metavar="ARTIFACT")],
) -> None:
    """Check every file and every parameter of an artifact against its manifest.

    Example: vamc-py verify build/smollm2
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from vamc_py.artifact.manifest import VaccManifest
    from vamc_py.artifact.verify import bytes_to_verify, read_any_manifest, verify

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=bytes_to_verify(read_any_manifest(artifact)))
        manifest = verify(artifact, lambda name, size: bar.update(task, description=name, advance=size))
    if isinstance(manifest, VaccManifest):
        parts = f"runstreams of {manifest.runstreams.ranks} ranks for the device model {manifest.runstreams.device}"
    else:
        parts = f"{len(manifest.parameters)} parameters"
    total = sum(record.size for record in manifest.files.values())
    print(f"{artifact}: {manifest.name} is as compiled: {len(manifest.files)} files of {total / 1e6:.1f} MB, {parts}")
