"""Where each buffer of a stage lies in SSRAM: buffers that live at the same time have places of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Lifetime:
    """A buffer from the first command that touches it to the last."""

    name: str
    bytes: int
    first: int
    last: int


class DoesNotFitError(Exception):
    """The buffers that live at a time need more than there is."""

    def __init__(self, needed: int, there: int, names: Sequence[str], memory: str = "SSRAM") -> None:
        super().__init__(
            f"{needed} bytes of {memory} are needed at a time, {there} are there; most by {', '.join(names)}"
        )
        self.needed = needed
        self.names = tuple(names)


def place(lifetimes: Sequence[Lifetime], size: int, memory: str = "SSRAM") -> tuple[list[int], int]:
    """The address of each buffer, in order, and the first byte behind all of them.

    Greedy by size (Pisarchyk and Lee, Efficient Memory Management for Deep Neural Net Inference, 2020): the largest
    first, each at the lowest address that no buffer alive at the same time has. Raises DoesNotFitError, which calls the
    memory by the name given.
    """
    order = sorted(range(len(lifetimes)), key=lambda i: (-lifetimes[i].bytes, lifetimes[i].first))
    addresses = [0] * len(lifetimes)
    placed: list[tuple[int, int, int, int]] = []  # address, end, first, last; by address
    reach = 0
    for index in order:
        one = lifetimes[index]
        address = _lowest(one, placed)
        addresses[index] = address
        _insert(placed, (address, address + one.bytes, one.first, one.last))
        reach = max(reach, address + one.bytes)
    if reach > size:
        raise DoesNotFitError(reach, size, _largest_at_once(lifetimes), memory)
    return addresses, reach


def _lowest(one: Lifetime, placed: Sequence[tuple[int, int, int, int]]) -> int:
    address = 0
    for start, end, first, last in placed:
        if last < one.first or one.last < first:
            continue
        if start >= address + one.bytes:
            break
        address = max(address, end)
    return address


def _insert(placed: list[tuple[int, int, int, int]], entry: tuple[int, int, int, int]) -> None:
    low, high = 0, len(placed)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if placed[middle] < entry else (low, middle)
    placed.insert(low, entry)


def _largest_at_once(lifetimes: Sequence[Lifetime]) -> list[str]:
    """The largest buffers of the moment at which most bytes live."""
    moments = {one.first for one in lifetimes}
    alive = max(
        ([one for one in lifetimes if one.first <= moment <= one.last] for moment in sorted(moments)),
        key=lambda group: sum(one.bytes for one in group),
    )
    return [f"{one.name} ({one.bytes})" for one in sorted(alive, key=lambda one: -one.bytes)[:4]]
