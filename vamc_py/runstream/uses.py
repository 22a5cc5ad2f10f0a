"""What a command touches: its accesses, and whether it reads or writes each."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vamc_py.runstream.program import Access, Command, Dynamic, Gather, Launch, Term

_MOST = 1 << 62  # what 64-bit sums hold


class Use(NamedTuple):
    """An access of a command."""

    access: Access
    reads: bool
    writes: bool

    @property
    def verb(self) -> str:
        """For people: ``reads``, ``writes``, or ``updates``."""
        return "updates" if self.reads and self.writes else "reads" if self.reads else "writes"


def uses(command: Command) -> tuple[Use, ...]:
    """The accesses of a command. A gather's table counts from its first to its last entry."""
    if isinstance(command, Launch):
        return tuple(Use(one.access, one.mode != "write", one.mode != "read") for one in command.arguments)
    if isinstance(command, Gather):
        index, table = Use(command.index, True, False), Use(entire_table(command), True, False)
        return index, table, Use(command.target, False, True)
    if command.source == command.target:  # an exchange in place
        return (Use(command.source, True, True),)
    return Use(command.source, True, False), Use(command.target, False, True)


def entire_table(command: Gather) -> Access:
    """One row from the first byte to the last that a gather may read of its table.

    ValueError where an entry would lie before the memory begins.
    """
    low, high = extremes(command.entry, command.entries)
    table = command.table
    return Access(memory=table.memory, offset=table.offset + low, size=high - low + table.span)


def reach(access: Access, registers: Mapping[str, int]) -> tuple[int, int]:
    """The first byte that an access may touch, and the one behind the last, whatever its register holds."""
    low, high = (0, 0) if access.at is None else extremes(access.at.terms, registers[access.at.register_name])
    return access.offset + low, access.offset + high + access.span


def offset_of(at: Dynamic | None, registers: Mapping[str, int]) -> int:
    """Bytes that an access is moved by where the registers have these values."""
    if at is None:
        return 0
    value = registers[at.register_name]
    return sum(term.of(value) for term in at.terms)


@functools.lru_cache(maxsize=4096)
def extremes(terms: tuple[Term, ...], limit: int) -> tuple[int, int]:
    """The lowest and the highest sum of the terms over all values from 0 to ``limit`` - 1."""
    bound = sum(abs(term.factor) * max(1, (limit - 1) // term.divide) for term in terms)
    if bound >= _MOST:  # no memory is that large; the caller's range check refuses it
        return -bound, bound
    sums = term_sums(terms, np.arange(limit))
    return int(sums.min()), int(sums.max())


def term_sums(terms: tuple[Term, ...], values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The sum of the terms for each value."""
    total = np.zeros_like(values)
    for term in terms:
        quotient = values // min(term.divide, _MOST)
        total += (quotient if term.modulo is None else quotient % min(term.modulo, _MOST)) * term.factor
    return total
