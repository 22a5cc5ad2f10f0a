"""Cells: the bytes of a memory, cut wherever an access of a program begins or ends.

An access touches a cell whole or not at all, so what is known about bytes need be kept for cells only. There are as
many as addresses that differ, whatever the sizes: a weight of 2 MB that is always read whole is one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from vamc_py.runstream.program import Access
from vamc_py.runstream.uses import reach

Index = slice | npt.NDArray[np.int64]
"""Cells by their numbers, ascending."""


class Cells:
    """The cells of one memory. An access with a dynamic offset counts as all that it may touch, in one row."""

    def __init__(self, accesses: Iterable[Access], registers: Mapping[str, int]) -> None:
        """``registers`` have their limits; ``accesses`` are all of one memory."""
        self._registers = registers
        self._known: dict[Access, Index] = {}
        distinct = set(accesses)
        edges = [edge for access in distinct for edge in self._rows(access)]
        self._edges = np.unique(np.concatenate(edges)) if edges else np.zeros(1, np.int64)

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._edges) - 1

    def of(self, access: Access) -> Index:
        """The cells of one of the accesses."""
        if (index := self._known.get(access)) is None:
            begins, ends = self._rows(access)
            index = _ranges(np.searchsorted(self._edges, begins), np.searchsorted(self._edges, ends))
            self._known[access] = index
        return index

    def within(self, begin: int, end: int) -> slice:
        """The cells that lie wholly in the bytes from ``begin`` to before ``end``."""
        first = int(np.searchsorted(self._edges, begin))
        return slice(first, max(first, int(np.searchsorted(self._edges, end, side="right")) - 1))

    def address(self, cell: int) -> int:
        """The first byte of a cell."""
        return int(self._edges[cell])

    def sizes(self, index: Index) -> npt.NDArray[np.int64]:
        """Bytes of each of these cells."""
        return np.diff(self._edges)[index]

    def _rows(self, access: Access) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The first bytes of an access's rows, and those behind the last; rows that touch are one."""
        if access.at is not None or access.rows == 1 or access.stride == access.size:
            begin, end = reach(access, self._registers)
            return np.array([begin]), np.array([end])
        begins = access.offset + access.stride * np.arange(access.rows)
        return begins, begins + access.size


def _ranges(firsts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> Index:
    """All numbers from each first to before its end; as a slice where they are evenly spaced."""
    counts = ends - firsts
    if len(firsts) == 1:
        return slice(int(firsts[0]), int(ends[0]))
    steps = np.diff(firsts)
    if (counts == 1).all() and (steps == steps[0]).all():
        return slice(int(firsts[0]), int(ends[-1]), int(steps[0]))
    before = np.cumsum(counts) - counts
    return np.repeat(firsts - before, counts) + np.arange(counts.sum())
