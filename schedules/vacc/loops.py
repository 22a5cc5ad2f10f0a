"""How kernels of the device model are put together with an IR builder: named loops, and the shares of the cores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder

Expr: TypeAlias = Any
"""A TIR expression of int32 or of a value (tvm is untyped here)."""

LANES = 16
"""Elements that loops go through together: the columns of a panel, and the partial sums of a row."""


def named(name: str, value: Expr) -> Expr:
    """`value`, a variable or buffer, which the IR shows as `name`."""
    IRBuilder.name(name, value)
    return value


def bound(name: str, value: Expr) -> Expr:
    """The value in a variable of that name; an int stays an int."""
    return value if isinstance(value, int) else named(name, T.bind(value))


@contextmanager
def serial(extent: Expr, name: str) -> Iterator[Expr]:
    """A loop from 0 to `extent`."""
    with T.serial(0, extent) as variable:
        yield named(name, variable)


@contextmanager
def lanes(name: str = "lane") -> Iterator[Expr]:
    """The lanes of a vector, all at once."""
    with T.vectorized(0, LANES) as variable:
        yield named(name, variable)


def scratch(elements: int, dtype: str, name: str) -> Any:
    """A buffer of a core's own. LLVM keeps less than 1,024 bytes off the heap (see docs/writing_kernels.md)."""
    return named(name, T.alloc_buffer((max(elements, 2),), dtype))  # a buffer of one element is a scalar to TVM


def minimum(a: Expr, b: Expr) -> Expr:
    """The smaller one; ints stay ints."""
    return min(a, b) if isinstance(a, int) and isinstance(b, int) else T.min(a, b)


def share(total: int, core: Expr, cores: int, unit: int = 1) -> tuple[Expr, Expr]:
    """Where the part of `total` that is a core's begins, and how long it is: even in whole units, but for the rest.

    Parts lie one behind the other in the order of the cores and may be empty.
    """
    if cores == 1:
        return 0, total
    units = -(-total // unit)
    start = bound("start", core * units // cores * unit)
    end = (core + 1) * units // cores * unit
    return start, bound("count", (end if total % unit == 0 else T.min(end, total)) - start)
