"""Proofs that programs are safe: one program, the two stages of a rank, and all ranks of a stage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, zip_longest

from vamc_py.errors import ArtifactError
from vamc_py.runstream.command_faults import command_faults, named
from vamc_py.runstream.layout import layout_faults
from vamc_py.runstream.order import order_faults
from vamc_py.runstream.program import Collective, Program

_MOST_FAULTS = 5  # that are told: one is often the cause of the next ones
_AGAIN = "compile the artifact again"


def check_program(program: Program, *, ssram_bytes: int, ddr_bytes: int) -> None:
    """ArtifactError, a line for each of the first faults, unless the program is safe on a die with so much memory.

    Safe: every access lies inside its memory, and in DDR inside one tensor that may be written where it is; sizes and
    kernels' arguments fit; whatever touches the same bytes, one writing, is ordered by queues and waits; and nothing is
    read that was not written. All of it holds for every value of the registers.
    """
    where = f"{program.stage} of rank {program.rank}"
    _refuse(where, layout_faults(program, ssram_bytes=ssram_bytes, ddr_bytes=ddr_bytes))
    _refuse(where, command_faults(program))  # relies on the tensors
    _refuse(where, order_faults(program))  # relies on both


def check_stages(programs: Iterable[Program]) -> None:
    """ArtifactError unless these programs of one rank work on the same parameters and caches at the same places."""
    first, *others = programs
    for other in others:
        for of in ("device", "context", "rank", "ranks"):
            if getattr(first, of) != getattr(other, of):
                _refuse(
                    f"rank {first.rank}",
                    [_differ(of, first.stage, getattr(first, of), other.stage, getattr(other, of))],
                )
        for name in sorted({t.name for p in (first, other) for t in p.tensors if t.role in ("parameter", "cache")}):
            ours, theirs = ([t for t in program.tensors if t.name == name] for program in (first, other))
            if ours != theirs:
                _refuse(f"rank {first.rank}", [f"{name} is not the same in {first.stage} and {other.stage}"])


def check_group(programs_by_rank: Mapping[int, Program]) -> None:
    """ArtifactError unless these are all ranks of one stage, with the same exchanges in the same order."""
    first = _check_ranks(programs_by_rank)
    _refuse(first.stage, _exchange_faults(first, programs_by_rank))


def check_ranks(programs: Sequence[Program]) -> None:
    """ArtifactError unless these are the programs of all ranks of one stage, in their order; cheap."""
    _check_ranks(dict(enumerate(programs)))


def _check_ranks(programs: Mapping[int, Program]) -> Program:
    """The first program that is there."""
    if not programs:
        raise ArtifactError(f"there is no program of any rank; {_AGAIN}")
    first = next(iter(programs.values()))
    _refuse(first.stage, _rank_faults(first, programs))
    return first


def _rank_faults(first: Program, programs: Mapping[int, Program]) -> Iterator[str]:
    for rank in range(first.ranks):
        if rank not in programs:
            yield f"rank {rank} of {first.ranks} is missing"
    for rank, program in sorted(programs.items()):
        if program.rank != rank:
            yield f"the program at the place of rank {rank} is that of rank {program.rank}"
        for of in ("stage", "device", "ranks", "tokens", "context"):
            if getattr(program, of) != getattr(first, of):
                yield _differ(of, f"rank {first.rank}", getattr(first, of), f"rank {rank}", getattr(program, of))


def _exchange_faults(first: Program, programs: Mapping[int, Program]) -> Iterator[str]:
    exchanges = _exchanges(first)
    for rank, program in sorted(programs.items()):
        for ours, theirs in zip_longest(exchanges, _exchanges(program)):
            if ours is None or theirs is None or _shape(ours[1]) != _shape(theirs[1]):
                yield f"rank {first.rank} {_does(ours)} where rank {rank} {_does(theirs)}"
                break


def _exchanges(program: Program) -> list[tuple[int, Collective]]:
    return [(n, command) for n, command in enumerate(program.commands) if isinstance(command, Collective)]


def _shape(command: Collective) -> tuple[str, str, int, int]:
    # An all_gather lays rows side by side, so they must agree; an all_reduce takes elements in their order.
    return command.kind, command.dtype, command.source.bytes, command.source.rows if command.kind == "all_gather" else 1


def _does(exchange: tuple[int, Collective] | None) -> str:
    if exchange is None:
        return "has no further exchange"
    number, command = exchange
    return f"has {named(number, command)}, {command.kind} of {command.source.bytes} bytes of {command.dtype},"


def _differ(what: str, one: str, ours: object, other: str, theirs: object) -> str:
    return f"{what} is {ours!r} in {one} and {theirs!r} in {other}"


def _refuse(where: str, faults: Iterable[str]) -> None:
    found = list(islice(faults, _MOST_FAULTS))
    if found:
        raise ArtifactError("\n".join(f"{where}: {fault}; {_AGAIN}" for fault in found))
