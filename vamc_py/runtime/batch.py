"""The checks of one step's arguments. Compiled code makes none: an index out of range there is a crash."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from vamc_py.errors import UserError

Integers: TypeAlias = Sequence[int] | npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Bounds:
    """What the arguments of a step must respect."""

    vocab: int  # entries of the vocabulary
    slots: int  # sequence slots
    context: int  # positions of one slot
    tokens: int  # most tokens in one step
    one_slot: bool = False  # whether a step takes the tokens of one slot only


@dataclass(frozen=True)
class Batch:
    """Checked arguments of a step, each an int32 array: ``tokens``, ``positions``, ``slots`` [n], ``rows`` [m]."""

    tokens: npt.NDArray[np.int32]
    positions: npt.NDArray[np.int32]
    slots: npt.NDArray[np.int32]
    rows: npt.NDArray[np.int32]

    @cached_property
    def runs(self) -> tuple[tuple[int, int, int], ...]:
        """(slot, first position, position after the last) for each slot of the batch, in order."""
        starts = _run_starts(self.slots)
        ends = [*starts[1:], len(self.slots)]
        return tuple(
            (int(self.slots[a]), int(self.positions[a]), int(self.positions[b - 1]) + 1)
            for a, b in zip(starts, ends, strict=True)
        )


def check(tokens: Integers, positions: Integers, slots: Integers, rows: Integers, bounds: Bounds) -> Batch:
    """The arguments as a Batch; UserError names the argument and the entry that is wrong."""
    arrays = {"tokens": integers("tokens", tokens)}
    count = len(arrays["tokens"])
    if not 1 <= count <= bounds.tokens:
        raise UserError(f"tokens: {count} in one step; this artifact takes 1 to {bounds.tokens}")
    for name, values in (("positions", positions), ("slots", slots)):
        arrays[name] = integers(name, values)
        if len(arrays[name]) != count:
            raise UserError(f"{name}: {len(arrays[name])} entries for {count} tokens; give one for each token")
    arrays["rows"] = integers("rows", rows)
    limits = {"tokens": bounds.vocab, "positions": bounds.context, "slots": bounds.slots, "rows": count}
    for name, values in arrays.items():
        _in_range(name, values, limits[name])
    batch = Batch(**{name: values.astype(np.int32) for name, values in arrays.items()})
    _ordered(batch)
    if bounds.one_slot and len(set(batch.slots.tolist())) > 1:
        raise UserError("slots: this artifact takes the tokens of one slot in a step; make a step for each slot")
    return batch


def check_run(tokens: Integers, *, slot: int, start: int, last: bool, bounds: Bounds) -> Batch:
    """``check`` for ``tokens`` at the positions from ``start`` on of one slot, with logits of the last one or of none.

    Decoding waits for it at each token, and these arguments need few checks.
    """
    array = integers("tokens", tokens)
    count = len(array)
    if not (0 <= slot < bounds.slots and 0 <= start <= bounds.context - count and 1 <= count <= bounds.tokens):
        wanted = [count - 1] if last else []
        return check(array, np.arange(start, start + count), np.full(count, slot), wanted, bounds)  # says what is wrong
    _in_range("tokens", array, bounds.vocab)
    rows = np.full(int(last), count - 1, np.int32)
    positions = np.arange(start, start + count, dtype=np.int32)
    return Batch(array.astype(np.int32), positions, np.full(count, slot, np.int32), rows)


def check_feed(tokens: Integers, *, start: int, context: int, compiled: int) -> npt.NDArray[np.integer[Any]]:
    """``tokens`` of one sequence as an array; UserError where there are none, or they do not fit from ``start`` on.

    ``context``: positions of the sequence; ``compiled``: the most that the artifact allows.
    """
    array = integers("tokens", tokens)
    if len(array) == 0:
        raise UserError("tokens: none given; feed at least one")
    if start + len(array) > context:
        more = (
            f"load the artifact with a longer context (it was compiled for up to {compiled})"
            if context < compiled
            else "compile with a longer context"
        )
        raise UserError(
            f"{len(array)} tokens from position {start} on do not fit in the context of {context} positions; "
            f"shorten the prompt or {more}"
        )
    return array


def check_context(context: int | None, compiled: int) -> int:
    """The context that an artifact is loaded with, by default all that it was ``compiled`` for; UserError for more."""
    if context is None:
        return compiled
    if not 1 <= context <= compiled:
        raise UserError(f"a context of {context} positions: the artifact was compiled for 1 to {compiled}")
    return context


def check_no_gap(batch: Batch, filled: Sequence[int]) -> None:
    """UserError where a slot's run begins behind the positions that the slot holds (``filled``, by slot)."""
    for slot, start, _ in batch.runs:
        if start > filled[slot]:
            raise UserError(
                f"positions: slot {slot} holds {filled[slot]} tokens, so position {start} would leave a gap; "
                f"start at {filled[slot]} or before"
            )


def integers(name: str, values: Integers) -> npt.NDArray[np.integer[Any]]:
    """``values`` as a one-dimensional integer array; UserError otherwise. An empty list is an empty array."""
    array = np.asarray(values)
    if array.size == 0 and array.ndim == 1:
        return np.zeros(0, np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise UserError(f"{name}: a list of whole numbers is wanted, not {array.ndim} dimensions of {array.dtype}")
    return array


def _in_range(name: str, values: npt.NDArray[np.integer[Any]], end: int) -> None:
    wrong = (values < 0) | (values >= end)
    if wrong.any():
        index = int(wrong.argmax())
        raise UserError(f"{name}[{index}] is {values[index]}; it must be from 0 to {end - 1}")


def _run_starts(slots: npt.NDArray[np.int32]) -> list[int]:
    return [0, *(np.flatnonzero(slots[1:] != slots[:-1]) + 1).tolist()]


def _ordered(batch: Batch) -> None:
    """The tokens of one slot stand together, and their positions ascend by one."""
    slots, positions = batch.slots, batch.positions
    firsts = slots[_run_starts(slots)].tolist()
    if len(set(firsts)) != len(firsts):
        again = next(slot for index, slot in enumerate(firsts) if slot in firsts[:index])
        raise UserError(f"slots: the tokens of slot {again} are apart; put the tokens of one slot together")
    jumps = (slots[1:] == slots[:-1]) & (positions[1:] != positions[:-1] + 1)
    if jumps.any():
        index = int(jumps.argmax()) + 1
        raise UserError(
            f"positions[{index}] is {positions[index]} after {positions[index - 1]}; within a slot they ascend by one"
        )
