"""Parallel loops, and loops over token rows that wake the other threads only where the work repays it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tvm.script import tirx as T

from . import simd

SERIAL_ELEMENTS = 16384
"""Up to so many elements one thread is done before the others have begun (a launch takes 0.7 us on two threads)."""


@contextmanager
def tasks(extent: Any, name: str = "task") -> Iterator[Any]:
    """A parallel loop over `extent` tasks, for code that is built with an IRBuilder; the variable is called `name`.

    The module's threads (``thread_pool.c``) take contiguous runs of tasks, first of their own share, then of others':
    a thread streams its weights in order, and a slow one does not hold up the rest.
    """
    with T.parallel(0, extent) as task:
        simd.named(name, task)
        yield task


@T.inline
def for_each_row(n: Any, features: int, row: Callable[[Any], None]) -> None:
    """Emit ``row(i)`` for all i < n, parallel when n * features is large. `row` is a ``T.inline`` function."""
    if n * features <= SERIAL_ELEMENTS:
        for i in T.serial(n):
            row(i)
    else:
        for i in T.parallel(n):
            row(i)
