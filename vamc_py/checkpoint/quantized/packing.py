"""Integers of 4 and 8 bits in words of 32: the lowest bits of a word hold its first integer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.int32]
Integers = npt.NDArray[np.int8]

_PIECE = 1 << 20  # integers unpacked at a time: temporaries of a few MB


def per_word(bits: int) -> int:
    """Integers in a word."""
    return 32 // bits


def unpack(words: Words, bits: int, out: Integers, order: Sequence[int] | None = None) -> None:
    """Unpacks words [R, C] into ``out`` int8 [R, C * per_word], less half of the range: 4 bits give -8..7.

    ``order[i]``: the column, of those of a word, that its i-th integer from below belongs to; None: the i-th.
    """
    unsigned = words.view(np.uint32)
    count = per_word(bits)
    mask, half = np.uint32((1 << bits) - 1), np.uint8(1 << bits - 1)
    for place in range(count):
        column = place if order is None else order[place]
        values = ((unsigned >> np.uint32(bits * place)) & mask).astype(np.uint8)
        out[:, column::count] = (values - half).view(np.int8)  # a byte below 0 wraps to the same signed one


def pieces(count: int, integers: int) -> Iterator[tuple[int, int]]:
    """The ranges in which to take ``count`` rows, each of which holds so many integers."""
    length = max(1, _PIECE // max(1, integers))
    return ((first, min(first + length, count)) for first in range(0, count, length))


def repeated(value: int, bits: int) -> np.int32:
    """The word in which every integer is ``value``, 0 <= value < 2**bits."""
    word = sum(value << bits * place for place in range(per_word(bits)))
    return np.int32(word - (1 << 32) if word >> 31 else word)
