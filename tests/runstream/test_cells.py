"""Cells of random accesses: they say which bytes two accesses share, as bytes themselves would."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from support.runstreams import ssram

from vamc_py.runstream.cells import Cells
from vamc_py.runstream.program import Access, Dynamic, Term
from vamc_py.runstream.uses import extremes, offset_of, reach

REGISTERS = {"position": 12}


@st.composite
def accesses(draw: st.DrawFn) -> Access:
    rows = draw(st.integers(1, 6))
    size = draw(st.integers(1, 9))
    return ssram(draw(st.integers(0, 40)), size, rows, size + draw(st.integers(0, 9)) if rows > 1 else 0)


def touched(access: Access) -> set[int]:
    return {access.offset + row * access.stride + byte for row in range(access.rows) for byte in range(access.size)}


@given(found=st.lists(accesses(), min_size=1, max_size=6))
def test_cells_are_the_bytes(found: list[Access]) -> None:
    cells = Cells(found, {})
    for access in found:
        numbers = np.arange(cells.count)[cells.of(access)]
        assert (np.diff(numbers) > 0).all()
        sizes = cells.sizes(cells.of(access))
        bytes_ = {cells.address(n) + i for n, size in zip(numbers.tolist(), sizes, strict=True) for i in range(size)}
        assert bytes_ == touched(access)
    begin, end = found[0].offset, found[0].offset + found[0].span
    inside = np.arange(cells.count)[cells.within(begin, end)].tolist()
    assert inside == [n for n in range(cells.count) if begin <= cells.address(n) and cells.address(n + 1) <= end]


def test_no_accesses_no_cells() -> None:
    cells = Cells([], {})
    assert cells.count == 0
    assert np.arange(0)[cells.within(0, 100)].tolist() == []


terms = st.lists(
    st.builds(Term, divide=st.integers(1, 5), modulo=st.none() | st.integers(1, 7), factor=st.integers(-20, 20)),
    max_size=3,
).map(tuple)


@given(terms=terms, limit=st.integers(1, 40))
def test_extremes_are_those_of_all_values(terms: tuple[Term, ...], limit: int) -> None:
    at = Dynamic(register_name="x", terms=terms)
    sums = [offset_of(at, {"x": value}) for value in range(limit)]
    assert extremes(terms, limit) == (min(sums), max(sums))
    assert reach(ssram(500, 8, 2, 16, at), {"x": limit}) == (500 + min(sums), 500 + max(sums) + 24)


def test_extremes_beyond_any_memory_are_no_crash() -> None:
    low, high = extremes((Term(factor=1 << 80), Term(divide=1 << 70, modulo=1 << 80, factor=1)), 16)
    assert low < -(1 << 62)
    assert high > 1 << 62
    assert extremes((Term(divide=1 << 70, modulo=1 << 80, factor=3),), 16) == (0, 0)


def test_a_dynamic_access_has_all_that_it_may_touch() -> None:
    moving = ssram(8, 2, 2, 6, Dynamic(register_name="position", terms=(Term(factor=4),)))
    cells = Cells([moving, ssram(0, 64)], REGISTERS)
    assert cells.sizes(cells.of(moving)).sum() == 11 * 4 + 8
    assert cells.address(int(np.arange(cells.count)[cells.of(moving)][0])) == 8
