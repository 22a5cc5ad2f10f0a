"""Recognising the parts of a merged projection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import relax

from vamc_py.pipeline.graph import Graph
from vamc_py.pipeline.matching import shape, static


def split_of(graph: Graph, parts: Sequence[Any]) -> Any | None:
    """x where ``parts`` are all the parts, in order, of a split of x along its last axis; else None."""
    items = [graph.value(part) for part in parts]
    if not all(isinstance(item, relax.TupleGetItem) for item in items):
        return None
    splits = {graph.origin(item.tuple_value) for item in items}
    if len(splits) != 1 or [item.index for item in items] != list(range(len(items))):
        return None
    call = graph.call(splits.pop(), "relax.split")
    if call is None or int(call.attrs.axis) not in (-1, len(shape(call.args[0])) - 1):
        return None
    widths = [static(shape(part)[-1]) for part in parts]
    if None in widths or sum(width or 0 for width in widths) != static(shape(call.args[0])[-1]):
        return None
    return call.args[0]
