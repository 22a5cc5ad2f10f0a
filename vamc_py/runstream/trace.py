"""A timeline as a trace that Perfetto and Chrome open: a process for each die, a thread for each engine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vamc_py.errors import UserError
from vamc_py.runstream.costs import matrix_operations
from vamc_py.runstream.program import ENGINES, Collective, Command, Launch, Program
from vamc_py.runstream.timing import NOBODY, Timeline
from vamc_py.target.vacc.device import STATEMENT

_MICRO = 1e6
_STAGE_GAP = 10  # numbers of processes: those of a stage's dies begin at a multiple of it


def write_trace(path: Path, timelines: Sequence[Timeline], layer: int | None = None) -> int:
    """Write the trace of one or two stages, side by side, in the Trace Event Format; the number of its commands.

    With ``layer`` it has the commands of that layer on the first die alone, at their times within the stage. UserError
    where there is no such layer, or the file cannot be written.
    """
    if layer is not None and not any(_has_layer(timeline.programs[0], layer) for timeline in timelines):
        raise UserError(f"there is no layer {layer}")
    try:
        return _write(path, timelines, layer)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None


def _has_layer(program: Program, layer: int) -> bool:
    return any(command.label.startswith(f"layers.{layer}.") for command in program.commands)


def _write(path: Path, timelines: Sequence[Timeline], layer: int | None) -> int:
    count = 0
    head = json.dumps({"statement": STATEMENT, "device": timelines[0].device.name})
    with path.open("w", encoding="utf-8") as file:
        file.write(f'{{"displayTimeUnit": "ns", "otherData": {head}, "traceEvents": [\n')
        separator = ""
        for event in _events(timelines, layer):
            file.write(separator + json.dumps(event, ensure_ascii=False))
            separator = ",\n"
            count += event["ph"] == "X"
        file.write("\n]}\n")
    return count


def _events(timelines: Sequence[Timeline], layer: int | None) -> Iterator[dict[str, Any]]:
    first = 1
    for timeline in timelines:
        dies = zip(timeline.programs, timeline.dies, strict=True)
        for program, die in dies if layer is None else [next(dies)]:
            process = first + program.rank
            yield from _names(program, process)
            work = {name: matrix_operations(record) for name, record in program.kernels.items()}
            starts, ends, waited = die.start.tolist(), die.end.tolist(), die.waited_for.tolist()
            for number, command in enumerate(program.commands):
                if layer is not None and not command.label.startswith(f"layers.{layer}."):
                    continue
                arguments = {"number": number, "label": command.label, **_details(command, work)}
                if useful := die.costs[number].useful_bytes:
                    arguments["ddr_bytes"] = int(useful)
                if waited[number] != NOBODY:
                    arguments["waited_for"] = waited[number]
                if others := float(die.dies_s[number]):
                    arguments["waited_for_dies_us"] = round(others * _MICRO, 6)
                yield {
                    "ph": "X",
                    "name": command.label or arguments.get("kernel", command.kind),
                    "cat": command.kind,
                    "pid": process,
                    "tid": ENGINES.index(command.engine) + 1,
                    "ts": round(starts[number] * _MICRO, 6),
                    "dur": round((ends[number] - starts[number]) * _MICRO, 6),
                    "args": arguments,
                }
        first += -(-len(timeline.programs) // _STAGE_GAP) * _STAGE_GAP


def _names(program: Program, process: int) -> Iterator[dict[str, Any]]:
    name = f"{program.stage} rank {program.rank} (estimate)"
    yield {"ph": "M", "name": "process_name", "pid": process, "args": {"name": name}}
    yield {"ph": "M", "name": "process_sort_index", "pid": process, "args": {"sort_index": process}}
    for number, engine in enumerate(ENGINES, 1):
        yield {"ph": "M", "name": "thread_name", "pid": process, "tid": number, "args": {"name": engine}}
        yield {"ph": "M", "name": "thread_sort_index", "pid": process, "tid": number, "args": {"sort_index": number}}


def _details(command: Command, work: dict[str, dict[str, int]]) -> dict[str, Any]:
    if isinstance(command, Launch):
        return {"kernel": command.kernel, **({"operations": found} if (found := work[command.kernel]) else {})}
    if isinstance(command, Collective):
        return {"kind": command.kind, "bytes": command.target.bytes}
    return {"bytes": command.target.bytes}
