"""R.vamc.embedding and R.vamc.select_rows: rows of a table, and the wanted row of a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

import numpy as np

from vamc_py.runstream.program import Dynamic, Term
from vamc_py.schedules.vacc import kernels
from vamc_py.schedules.vacc.emit.decisions import TILE, fitting
from vamc_py.schedules.vacc.emit.emitter import Emitter
from vamc_py.schedules.vacc.emit.stage import At, Ddr
from vamc_py.schedules.vacc.emit.values import Parameter, Value

TableType: TypeAlias = Literal["int8", "float16", "float32"]


@dataclass(frozen=True)
class Table:
    """An embedding's table, or this die's part of it."""

    values: Parameter
    """[entries, features] as it is, or in panels [ceil(entries / 16)][features][16] where lm_head reads it, too."""
    entries: int
    features: int
    panels: bool
    scale: Parameter | None = None
    """float32 [entries or more], of an int8 table."""
    first: int = 0
    """The token of the first entry; tokens that are not in the table give zeros, which the other dies add to."""

    @property
    def entry(self) -> tuple[Term, ...]:
        """Where an entry begins."""
        size = int(np.dtype(self.values.dtype).itemsize)
        if self.panels:
            return Term(divide=TILE, factor=TILE * self.features * size), Term(modulo=TILE, factor=size)
        return (Term(factor=self.features * size),)

    def piece(self) -> At:
        """The first entry."""
        size = int(np.dtype(self.values.dtype).itemsize)
        if self.panels:
            return At(self.values.place, 0, size, self.features, TILE * size)
        return At(self.values.place, 0, self.features * size)


def embed(e: Emitter, table: Table, tokens: Ddr, count: int, *, summed: bool) -> Value:
    """float32 [count, features]; `summed` over the dies, each of which has a part of the table."""
    out = e.value("embedded", count, table.features, "float32")
    ids = e.loaded(At(tokens, 0, count * 4), e.block_buffer("tokens", count, "int32"))
    step = fitting(count, e.decisions.outputs // (table.features * 4))
    for row in range(0, count, step):
        rows = min(step, count - row)
        index = At(ids.place, ids.offset + row * 4, rows * 4)
        gathered = e.output_slot("gathered", rows * table.features, table.values.dtype)
        e.stage.gather(index, table.piece(), table.entry, table.first, table.entries, gathered)
        arguments = [gathered]
        if table.scale is not None:
            scales = e.output_slot("gathered_scales", rows, "float32")
            e.stage.gather(
                index, At(table.scale.place, 0, 4), (Term(factor=4),), table.first, table.entries, scales
            )  # fmt: skip
            arguments.append(scales)
        kernel = kernels.embed_rows(
            rows,
            table.features,
            dtype=cast(TableType, table.values.dtype),
            scale=table.scale is not None,
            cores=e.cores,
        )
        direct = out.resident and not summed
        target = out.block(row, rows) if direct else e.output_slot("embedded", rows * table.features, "float32")
        e.stage.launch(kernel, *arguments, target)
        if summed:
            # Each row comes from one die, so nothing is rounded in float32.
            total = out.block(row, rows) if out.resident else e.output_slot("total32", rows * table.features, "float32")
            e.stage.collective("all_reduce", "float32", target, total)
            target = total
        if not out.resident:
            e.stage.transfer("odma", target, out.block(row, rows))
    return out


def select_row(e: Emitter, value: Value) -> Value:
    """The row of the register ``row``, in SSRAM; a value of one row is that row."""
    if value.rows == 1:
        return value
    assert value.scales is None, "rows are selected before activations are rounded to int8"
    out = e.value("selected", 1, value.columns, value.dtype)
    width = value.columns * value.itemsize
    source = At(value.place, 0, width, at=Dynamic(register_name="row", terms=(Term(factor=width),)))
    e.stage.transfer("cdma" if value.resident else "idma", source, out.block(0, 1))
    return out
