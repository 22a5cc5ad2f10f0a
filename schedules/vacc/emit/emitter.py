"""What the emitters of all operators share: where values go, how they come into SSRAM, rings for what is in flight."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Literal

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

    def weight_slot(self, name: str, size: int, slots: int | None = None) -> At:
        """`size` bytes for weights on their way: operators share the slots, so loads run ahead of them."""
        return At(self.stage.ring(name, slots or self.decisions.loads, size, lasting=True).next(), 0, size)

    def output_slot(self, name: str, elements: int, dtype: str) -> At:
        """A tile of results on its way."""
        size = elements * np.dtype(dtype).itemsize
        return At(self.stage.ring(name, OUTPUT_SLOTS, size, lasting=False).next(), 0, size)

    def block_buffer(self, name: str, elements: int, dtype: str) -> At:
        """A buffer of its own."""
        return At(self.stage.buffer(name, elements, dtype))

    def loaded(self, source: At, target: At) -> At:
        """`target`, filled from DDR."""
        self.stage.transfer("idma", source, target)
        return target

    def copied(self, source: At, target: At) -> None:
        """`target` has the bytes of `source` then, whichever memories they are in."""
        at, to = source.memory, target.memory
        self.stage.transfer(
            "idma" if (at, to) == ("ddr", "ssram") else "odma" if to == "ddr" else "cdma", source, target
        )

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
        """out = float32(total) [+ residual, which out may be], for a window; total is float16 [rows, columns]."""
        window = out.window(row, rows, column, columns)
        direct = out.resident and (residual is None or residual.resident)
        target = window if direct else self.output_slot("added", rows * columns, "float32")
        stride = out.columns if direct else columns
        arguments = [total]
        own: bool | Literal["in place"] = residual is not None
        if residual is not None:
            term = residual.window(row, rows, column, columns)
            if not direct:
                self.copied(term, target)
                own = "in place"
            elif residual.place is out.place:
                own = "in place"
            else:
                arguments.append(term)
        kernel = kernels.add_rows(
            rows, columns, residual=own, y_stride=out.columns, out_stride=stride, cores=self.cores
        )
        self.stage.launch(kernel, *arguments, target)
        if not direct:
            self.copied(target, window)


def window_of(place: Ddr, row: int, rows: int, columns: int, itemsize: int) -> At:
    """Whole rows of a row-major tensor in DDR."""
    return At(place, row * columns * itemsize, rows * columns * itemsize)
