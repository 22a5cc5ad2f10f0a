"""What the emitters of all operators share: where values go, how they come into SSRAM, rings for what is in flight."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np

from vamc_py.schedules.vacc import kernels
from vamc_py.schedules.vacc.emit.decisions import Decisions
from vamc_py.schedules.vacc.emit.stage import At, Ddr, Stage
from vamc_py.schedules.vacc.emit.values import Parameter, Value

OUTPUT_SLOTS = 2  # tiles of results in flight: one that is written, one that is carried away


class Emitter:
    """A stage that is being written, with the decisions it is written by."""

    def __init__(self, stage: Stage, decisions: Decisions, *, cores: int) -> None:
        self.stage = stage
        self.decisions = decisions
        self.cores = cores

    def value(self, name: str, rows: int, columns: int, dtype: str) -> Value:
        """A place for a matrix between operators: in SSRAM where it is small enough."""
        small = rows * columns * np.dtype(dtype).itemsize <= self.decisions.resident or rows == 1
        buffer = self.stage.buffer(name, rows * columns, dtype, "ssram" if small else "ddr")
        return Value(rows, columns, dtype, buffer)

    def with_scales(self, value: Value, group: int) -> Value:
        """The value with a place for the scale of each row and `group` of columns (0: of each row)."""
        groups = -(-value.columns // (group or value.columns))
        memory = "ssram" if value.resident else "ddr"
        place = self.stage.buffer("scales", value.rows * groups, "float32", memory)  # type: ignore[arg-type]
        return replace(value, scales=Value(value.rows, groups, "float32", place))

    def in_ring(self, name: str, size: int, slots: int | None = None) -> At:
        """`size` bytes of the next slot of a ring."""
        ring = self.stage.ring(name, slots or self.decisions.slots, size)
        return At(ring.next(), 0, size)

    def output_slot(self, name: str, elements: int, dtype: str) -> At:
        """A tile of results on its way."""
        return self.in_ring(name, elements * np.dtype(dtype).itemsize, OUTPUT_SLOTS)

    def block_buffer(self, name: str, elements: int, dtype: str) -> At:
        """A buffer of its own."""
        return At(self.stage.buffer(name, elements, dtype))

    def loaded(self, source: At, target: At) -> At:
        """`target`, filled from DDR."""
        self.stage.transfer("idma", source, target)
        return target

    def constant(self, name: str, parameter: Parameter) -> At:
        """A small parameter, whole."""
        return self.loaded(At(parameter.place), self.block_buffer(name, prod(parameter.shape), parameter.dtype))

    def here(self, value: Value, name: str) -> Value:
        """The value in SSRAM."""
        if value.resident:
            return value
        at = self.block_buffer(name, value.rows * value.columns, value.dtype)
        self.loaded(value.block(0, value.rows), at)
        return replace(value, place=at.place)

    def add_total(
        self, total: At, row: int, rows: int, column: int, columns: int, residual: Value | None, out: Value
    ) -> None:
        """out = float32(total) [+ residual], for a window of both; total is float16 [rows, columns]."""
        window = out.window(row, rows, column, columns)
        target = window if out.resident else self.output_slot("added", rows * columns, "float32")
        stride = out.columns if out.resident else columns
        arguments = [total]
        residual_stride = 0
        if residual is not None:
            term = residual.window(row, rows, column, columns)
            residual_stride = residual.columns
            if not residual.resident:
                term = self.loaded(term, self.output_slot("residual", rows * columns, "float32"))
                residual_stride = columns
            arguments.append(term)
        kernel = kernels.add_rows(
            rows, columns, residual=residual is not None, y_stride=residual_stride, out_stride=stride, cores=self.cores
        )
        self.stage.launch(kernel, *arguments, target)
        if not out.resident:
            self.stage.transfer("odma", target, window)


def window_of(place: Ddr, row: int, rows: int, columns: int, itemsize: int) -> At:
    """Whole rows of a row-major tensor in DDR."""
    return At(place, row * columns * itemsize, rows * columns * itemsize)
