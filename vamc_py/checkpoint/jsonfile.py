"""JSON files of a checkpoint, with errors that say where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vamc_py.errors import CheckpointError


def read_text(path: Path) -> str:
    """The text of a UTF-8 file; CheckpointError if it cannot be read or is something else."""
    try:
        return path.read_bytes().decode("utf-8")  # not read_text: it would change line ends
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: byte {error.start} is not UTF-8 text; fetch the file again") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; CheckpointError with file:line:column otherwise."""
    return parse_json_object(read_text(path), path)


def parse_json_object(text: str, path: Path) -> dict[str, Any]:
    """The object in ``text``, which came from ``path``; CheckpointError with file:line:column otherwise."""
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path}:{error.lineno}:{error.colno}: bad JSON: {error.msg}") from error
    except (RecursionError, ValueError) as error:  # nested too deep; a number with thousands of digits
        raise CheckpointError(f"{path}:1:1: bad JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}:1:1: a JSON object is needed here, not {type(content).__name__}")
    return content
