"""Loops over token rows that wake the other threads only where the work repays it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm.script import tirx as T

SERIAL_ELEMENTS = 16384
"""Up to so many elements one thread is done before the others have begun (a launch takes 0.7 us on two threads)."""


@T.inline
def for_each_row(n: Any, features: int, row: Callable[[Any], None]) -> None:
    """Emit ``row(i)`` for all i < n, parallel when n * features is large. `row` is a ``T.inline`` function."""
    if n * features <= SERIAL_ELEMENTS:
        for i in T.serial(n):
            row(i)
    else:
        for i in T.parallel(n):
            row(i)
