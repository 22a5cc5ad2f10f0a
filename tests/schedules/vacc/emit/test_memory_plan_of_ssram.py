"""Places of buffers in a memory: none overlap that live at the same time, and what does not fit is named."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vamc_py.schedules.vacc.emit.memory_plan import DoesNotFitError, Lifetime, place


@st.composite
def lifetimes(draw: st.DrawFn) -> list[Lifetime]:
    many = draw(st.lists(st.tuples(st.integers(1, 300), st.integers(0, 20), st.integers(0, 20)), max_size=14))
    return [Lifetime(str(i), size, min(ends), max(ends)) for i, (size, *ends) in enumerate(many)]


def together(one: Lifetime, other: Lifetime) -> bool:
    return one.first <= other.last and other.first <= one.last


def peak(many: list[Lifetime]) -> int:
    """The most bytes that live at a time."""
    return max((sum(b.bytes for b in many if b.first <= a.first <= b.last) for a in many), default=0)


@given(lifetimes())
def test_buffers_that_live_together_have_places_of_their_own(many: list[Lifetime]) -> None:
    addresses, reach = place(many, 1 << 20)
    ends = [address + one.bytes for address, one in zip(addresses, many, strict=True)]
    assert reach == max(ends, default=0)
    assert peak(many) <= reach <= sum(one.bytes for one in many)
    for i, one in enumerate(many):
        for j, other in enumerate(many[:i]):
            assert not together(one, other) or ends[i] <= addresses[j] or ends[j] <= addresses[i]
        # Nothing hangs in the air: a buffer begins where memory does, or behind one that lives with it.
        below = {0} | {ends[j] for j, other in enumerate(many) if j != i and together(one, other)}
        assert addresses[i] in below


@given(st.lists(st.integers(1, 300), min_size=1, max_size=10))
def test_buffers_that_live_one_after_another_share_their_place(sizes: list[int]) -> None:
    many = [Lifetime(str(i), size, 2 * i, 2 * i + 1) for i, size in enumerate(sizes)]
    assert place(many, max(sizes)) == ([0] * len(sizes), max(sizes))
    # A buffer is still read by the command that first writes the next one: then the two are neighbours.
    touching = [Lifetime(str(i), size, i, i + 1) for i, size in enumerate(sizes)]
    for (start, one), (after, other) in pairwise(zip(place(touching, 1 << 20)[0], touching, strict=True)):
        assert start + one.bytes <= after or after + other.bytes <= start


@given(lifetimes().filter(bool))
def test_a_byte_less_is_refused(many: list[Lifetime]) -> None:
    _, reach = place(many, 1 << 20)
    place(many, reach)
    with pytest.raises(DoesNotFitError) as fault:
        place(many, reach - 1)
    assert fault.value.needed == reach


def test_the_largest_of_the_fullest_moment_are_named() -> None:
    many = [
        Lifetime("huge but alone", 900, 0, 1),
        *(Lifetime(f"part {i}", 100 + i, 2, 9) for i in range(9)),
        Lifetime("late", 5, 9, 12),
    ]
    with pytest.raises(DoesNotFitError) as fault:
        place(many, 940)
    assert str(fault.value) == (
        "941 bytes of SSRAM are needed at a time, 940 are there; "
        "most by part 8 (108), part 7 (107), part 6 (106), part 5 (105)"
    )
    assert fault.value.names == ("part 8 (108)", "part 7 (107)", "part 6 (106)", "part 5 (105)")


def test_another_memory_is_called_by_its_name() -> None:
    with pytest.raises(
        DoesNotFitError, match=r"^64 bytes of DDR are needed at a time, 63 are there; most by one \(64\)"
    ):
        place([Lifetime("one", 64, 0, 1)], 63, "DDR")


def test_nothing_needs_nothing() -> None:
    assert place([], 0) == ([], 0)
