"""From an artifact or a dump to the report's file."""

from __future__ import annotations

import os
from pathlib import Path

from vamc_py.artifact.manifest import MANIFEST_FILE, MODULE_FILE
from vamc_py.artifact.verify import read_manifest
from vamc_py.errors import UserError
from vamc_py.inspect.dump import open_dump
from vamc_py.inspect.page import render_page
from vamc_py.inspect.report import make_report
from vamc_py.progress import stage


def write_report(path: Path, output: Path, *, measure: bool) -> None:
    """Writes the report on ``path``, an artifact or a dump, as HTML; an older file of that name goes.

    Of an artifact the kernels are timed, if ``measure``. UserError where the folder is neither, is damaged or cannot be
    run here, or where the file cannot be written; nothing is there then that was not there before.
    """
    check_writable(output)
    artifact = (path / MANIFEST_FILE).is_file()
    manifest = read_manifest(path) if artifact else None
    dump = open_dump(path)
    report = make_report(dump, manifest, path / MODULE_FILE if artifact else None, measure=measure)
    with stage("page"):
        write_beside(output, render_page(report))


def check_writable(output: Path) -> None:
    """UserError, before any work is done, where no file can be written at ``output``."""
    if output.is_dir():
        raise UserError(f"{output}: a folder; name a file for the report, such as {output / 'report.html'}")
    if not output.parent.is_dir():
        raise UserError(f"{output}: there is no folder {output.parent}; make it, or name another file")
    if not os.access(output.parent, os.W_OK):
        raise UserError(f"{output}: the folder {output.parent} cannot be written; name another file")


def write_beside(output: Path, text: str) -> None:
    """Writes a file under another name in its folder and renames it when it is whole."""
    partial = output.with_name(f".{output.name}.partial-{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(output)
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({error.strerror or error}); name another file") from error
    finally:
        partial.unlink(missing_ok=True)
