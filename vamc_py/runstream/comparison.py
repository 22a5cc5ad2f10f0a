"""Where two programs differ: the head, tensors, kernels, and the commands of each operator, folded over the layers."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from vamc_py.runstream.listing import command_line
from vamc_py.runstream.program import Command, Program
from vamc_py.runstream.usage import without_layer

_HEAD = ("device", "stage", "tokens", "context", "rank", "ranks", "registers", "ddr_bytes", "ssram_bytes")


def differences(first: Program, second: Program) -> list[str]:
    """Lines that begin with ``- `` (the first's), ``+ `` (the second's), ``@@`` (what follows) or a space; none where
    the programs are the same.

    Commands are compared operator by operator and without their addresses, which move together; how many commands only
    moved is one line. What differs alike in many layers is shown once.
    """
    lines = [*_head(first, second)]
    lines += _named(
        "tensor",
        {one.name: f"{one.role} {one.dtype} {list(one.shape)}" for one in first.tensors},
        {one.name: f"{one.role} {one.dtype} {list(one.shape)}" for one in second.tensors},
    )
    lines += _kernels(first, second)
    commands = _commands(first, second)
    lines += commands
    if not commands and first.commands != second.commands:
        lines += _moved(first, second)
    if not lines and first != second:
        lines.append("@@ DDR addresses of tensors")
    return lines


def _head(first: Program, second: Program) -> list[str]:
    lines: list[str] = []
    for key in _HEAD:
        before, after = getattr(first, key), getattr(second, key)
        if before != after:
            lines += [f"@@ {key}", f"- {before}", f"+ {after}"]
    return lines


def _named(kind: str, first: Mapping[str, str], second: Mapping[str, str]) -> list[str]:
    """What only one of them has, or both differently."""
    lines: list[str] = []
    folded: dict[tuple[str, str | None, str | None], list[str]] = defaultdict(list)
    for name in {**first, **second}:
        before, after = first.get(name), second.get(name)
        if before != after:
            folded[without_layer(name), before, after].append(name)
    for (_, before, after), names in folded.items():
        lines.append(f"@@ {kind} {_names(names)}")
        lines += [f"- {before}"] if before is not None else []
        lines += [f"+ {after}"] if after is not None else []
    return lines


def _kernels(first: Program, second: Program) -> list[str]:
    def text(program: Program) -> dict[str, str]:
        return {name: record.model_dump_json() for name, record in program.kernels.items()}

    before, after = text(first), text(second)
    lines = [f"- kernel {name}" for name in before if name not in after]
    lines += [f"+ kernel {name}" for name in after if name not in before]
    for name in before:
        if name in after and before[name] != after[name]:
            lines.append(f"@@ kernel {name}")
            lines += _fields(first.kernels[name].model_dump(), second.kernels[name].model_dump())
    return lines


def _fields(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    for key in before:
        if before[key] != after[key]:
            lines += [f"- {key} {_short(before[key])}", f"+ {key} {_short(after[key])}"]
    return lines


def _short(value: Any, limit: int = 200) -> str:
    text = str(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _commands(first: Program, second: Program) -> list[str]:
    before, after = _by_label(first), _by_label(second)
    folded: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
    for label in {**before, **after}:
        one, other = before.get(label, []), after.get(label, [])
        if one != other:
            changed = tuple(line for line in difflib.unified_diff(one, other, n=1, lineterm="") if _is_content(line))
            folded[without_layer(label), changed].append(label)
    lines: list[str] = []
    for (_, changed), labels in folded.items():
        lines += [f"@@ {_names(labels)}", *changed]
    return lines


def _is_content(line: str) -> bool:
    return not line.startswith(("--- ", "+++ ", "@@"))


def _by_label(program: Program) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for command in program.commands:
        found[command.label].append(" " + command_line(command, addresses=False) + _waits(command, program))
    return found


def _waits(command: Command, program: Program) -> str:
    """What a command waits for without numbers, which one command more would change in all others."""
    names = sorted(
        f"{other.engine} {other.label}" if other.label != command.label else other.engine
        for other in (program.commands[number] for number in command.waits if number < len(program.commands))
    )
    return f", after {', '.join(names)}" if names else ""


def _moved(first: Program, second: Program) -> list[str]:
    """Of programs whose operators do the same: their order, or their addresses."""

    def order(program: Program) -> list[tuple[str, str]]:
        return [(command.engine, command.label) for command in program.commands]

    before, after = order(first), order(second)
    for number, (one, other) in enumerate(zip(before, after, strict=True)):
        if one != other:
            return [f"@@ order, from command {number}", f"- {' '.join(one)}", f"+ {' '.join(other)}"]
    pairs = zip(first.commands, second.commands, strict=True)
    numbers = [number for number, (one, other) in enumerate(pairs) if one != other]
    return [f"@@ addresses or the numbers of waits of {len(numbers)} commands, the first one {numbers[0]}"]


def _names(names: list[str]) -> str:
    if len(names) == 1:
        return names[0] or "(no label)"
    return f"{without_layer(names[0])} ({len(names)}: {names[0]} to {names[-1]})"
