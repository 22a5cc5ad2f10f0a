"""A program as people read it: its head, what each operator does, folded over the layers, and its commands as lines."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vamc_py.runstream.program import Access, Collective, Command, Dynamic, Gather, Launch, Program, Term
from vamc_py.runstream.usage import without_layer


@dataclass(frozen=True)
class Totals:
    """What the commands of a label come to."""

    commands: int
    read: int  # bytes from DDR
    written: int  # bytes to DDR
    exchanged: int  # bytes of collectives' targets
    kernels: tuple[str, ...]  # names, with their number where it is above 1


@dataclass(frozen=True)
class Row:
    """Labels that differ only in the layer and come to the same."""

    label: str
    """``*`` for the layer where there are several."""
    labels: tuple[str, ...]
    first: int
    """The number of their first command."""
    totals: Totals
    """Of one of them."""


def rows(program: Program) -> list[Row]:
    """Every label of a program, in the order of first appearance, those of alike layers together."""
    commands: dict[str, list[Command]] = defaultdict(list)
    first: dict[str, int] = {}
    for number, command in enumerate(program.commands):
        commands[command.label].append(command)
        first.setdefault(command.label, number)
    folded: dict[tuple[str, Totals], list[str]] = defaultdict(list)
    for label, of_label in commands.items():
        folded[without_layer(label), totals(of_label)].append(label)
    return [
        Row(_name(form, labels), tuple(labels), first[labels[0]], total) for (form, total), labels in folded.items()
    ]


def _name(form: str, labels: Sequence[str]) -> str:
    return (form if len(labels) > 1 else labels[0]) or "(no label)"


def totals(commands: Iterable[Command]) -> Totals:
    """What these commands come to."""
    count = read = written = exchanged = 0
    kernels: Counter[str] = Counter()
    for command in commands:
        count += 1
        if isinstance(command, Launch):
            kernels[command.kernel] += 1
        elif isinstance(command, Collective):
            exchanged += command.target.bytes
        else:
            if isinstance(command, Gather):
                read += command.target.bytes
            elif command.source.memory == "ddr":
                read += command.source.bytes
            written += command.target.bytes if command.target.memory == "ddr" else 0
    names = (f"{times} x {name}" if times > 1 else name for name, times in kernels.items())
    return Totals(count, read, written, exchanged, tuple(names))


def head(program: Program) -> list[tuple[str, str]]:
    """The program in a few lines: (what, value)."""
    sizes: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for tensor in program.tensors:
        sizes[tensor.role] += tensor.size
        counts[tensor.role] += 1
    engines = Counter(command.engine for command in program.commands)
    registers = ", ".join(f"{name} below {limit}" for name, limit in program.registers.items())
    return [
        ("device", f"{program.device}, a model of vamc-py's own"),
        ("stage", f"{program.stage}, {program.tokens} tokens of a context of {program.context}"),
        ("rank", f"{program.rank} of {program.ranks}"),
        ("DDR", f"{megabytes(program.ddr_bytes)}: " + _of_roles(sizes, counts)),
        ("SSRAM", megabytes(program.ssram_bytes)),
        ("registers", registers or "none"),
        ("kernels", str(len(program.kernels))),
        ("commands", f"{len(program.commands)}: " + ", ".join(f"{name} {times}" for name, times in engines.items())),
    ]


def _of_roles(sizes: Counter[str], counts: Counter[str]) -> str:
    return ", ".join(f"{counts[role]} of role {role} with {megabytes(size)}" for role, size in sizes.items())


def megabytes(size: float) -> str:
    """A number of bytes as ``1.23 MB``; small ones as they are."""
    return f"{size / 1e6:,.2f} MB" if size >= 10_000 else f"{int(size)} B"


def command_line(command: Command, *, addresses: bool = True) -> str:
    """A command on one line, without its number and its waits."""
    if isinstance(command, Launch):
        scalars = ", ".join(map(str, command.scalars))
        buffers = ", ".join(f"{one.mode} {_access(one.access, addresses)}" for one in command.arguments)
        return f"{command.engine} {command.kernel}({buffers}{'; ' + scalars if scalars else ''})"
    target = _access(command.target, addresses)
    if isinstance(command, Gather):
        table = _access(command.table, addresses)
        index = _access(command.index, addresses)
        entry = _terms(command.entry)
        return f"{command.engine} gather {table} + {entry} for {index} in {_range(command)} -> {target}"
    source = _access(command.source, addresses)
    if isinstance(command, Collective):
        return f"{command.engine} {command.kind} {command.dtype} {source} -> {target}"
    return f"{command.engine} {source} -> {target}"


def _range(command: Gather) -> str:
    return f"[{command.first}, {command.first + command.entries})"


def _access(access: Access, addresses: bool) -> str:
    """``ddr[0x40, 2 rows of 16 B every 64 B]``."""
    place = f"0x{access.offset:x}" + (f" + {_dynamic(access.at)}" if access.at else "") + ", " if addresses else ""
    rows = f"{access.rows} rows of {access.size} B every {access.stride} B" if access.rows > 1 else f"{access.size} B"
    return f"{access.memory}[{place}{rows}]"


def _dynamic(at: Dynamic) -> str:
    return f"{at.register_name}: {_terms(at.terms)}"


def _terms(terms: Sequence[Term]) -> str:
    """``i // 16 * 512 + i % 16 * 2``."""
    parts = []
    for term in terms:
        text = "i" if term.divide == 1 else f"i // {term.divide}"
        text += "" if term.modulo is None else f" % {term.modulo}"
        parts.append(text if term.factor == 1 else f"{text} * {term.factor}")
    return " + ".join(parts) or "0"
