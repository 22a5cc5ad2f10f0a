"""``vamc-py export-onnx``: a checkpoint becomes the ONNX graphs iter0 (prefill) and iter1 (decode)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("export-onnx")(export_onnx)


def export_onnx(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The YAML file.")],
    dynamic: Annotated[
        bool, typer.Option("--dynamic", help="Graphs for any number of tokens and positions, not for fixed ones.")
    ] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override one value, read as YAML; may be given again."),
    ] = None,
) -> None:
    """Write the checkpoint as ONNX graphs to <workspace.path>/<name>-onnx: iter0 reads a prompt, iter1 one more token.

    With backend.dtype int8 the layers' weights are int8, in nodes Vastai::QuantizedLinearPerChannel whose definition is
    in the model. No weight is in memory whole. Prints the folder.

    Example: vamc-py export-onnx examples/hf_qwen3_int8.yaml --dynamic
    """
    from vamc_py.config import load_config
    from vamc_py.extras import require_compiler, require_onnx
    from vamc_py.interrupts import ended_by_signals

    loaded = load_config(config, overrides or ())
    require_compiler()
    require_onnx()
    with ended_by_signals():
        from vamc_py.onnx_export.export import export

        typer.echo(export(loaded, dynamic=dynamic))
