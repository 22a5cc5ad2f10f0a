"""mod.json: a program as text, the same bytes for the same program, one command a line so that two can be compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from vamc_py.errors import ArtifactError
from vamc_py.runstream.program import FORMAT, Command, Program

PROGRAM_FILE = "mod.json"
_AGAIN = "copy or compile the artifact again"


def serialise(program: Program) -> bytes:
    """The text of a program: compact JSON without the fields of commands that have their default."""
    head = program.model_dump(mode="json", exclude={"commands"})
    commands = ",\n".join(_compact(_fields(command)) for command in program.commands)
    return f'{_compact(head)[:-1]},"commands":[\n{commands}\n]}}\n'.encode()


def write_program(path: Path, program: Program) -> None:
    """Write ``path``; not atomically, which is the matter of who writes the artifact."""
    path.write_bytes(serialise(program))


def read_program(path: Path) -> Program:
    """The program in the file ``path``, or in the folder that holds one.

    ArtifactError where it cannot be read, or is none of this format.
    """
    file = path / PROGRAM_FILE if path.is_dir() else path
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise ArtifactError(
            f"{file}: there is no such file; name a program or its folder, such as prefill_512_rank0, of an artifact "
            "that is whole"
        ) from None
    except OSError as error:
        raise ArtifactError(f"{file} cannot be read: {error.strerror}; {_AGAIN}") from error
    return parse(data, str(file))


def parse(data: bytes, name: str) -> Program:
    """The program that ``serialise`` wrote; ``name`` is the file's in an ArtifactError.

    Numbers must be numbers and every field known. What the commands do is not looked at: see ``check``.
    """
    try:
        program = Program.model_validate_json(data, strict=True)
    except ValidationError as error:
        raise ArtifactError(f"{name}: {_fault(data, error)}") from error
    version = program.format if "format" in program.model_fields_set else None  # the default is for writers
    if version != FORMAT:
        raise ArtifactError(f"{name}: {_other_format(version)}")
    return program


def _fields(command: Command) -> dict[str, Any]:
    return {"kind": command.kind, **command.model_dump(mode="json", exclude_defaults=True)}


def _compact(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))


def _fault(data: bytes, error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    if first["type"] == "json_invalid":
        return f"not readable as JSON ({first['ctx']['error']}); {_AGAIN}"
    content = from_json(data)
    # The version before the fields: another one may have quite other fields, and its number is what helps the reader.
    if isinstance(content, dict) and content.get("format") != FORMAT:
        return _other_format(content.get("format"))
    where = ".".join(str(part) for part in first["loc"])
    return f"{where + ': ' if where else ''}{first['msg']}; {_AGAIN}"


def _other_format(version: object) -> str:
    return f"runstream format {version!r}, this vamc-py reads format {FORMAT}; compile the artifact with this version"
