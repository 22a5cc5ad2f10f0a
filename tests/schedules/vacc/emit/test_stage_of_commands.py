"""A stage while it is written: sizes that must agree, rings, labels, places, and when buffers live."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vamc_py.runstream.program import Transfer
from vamc_py.schedules.vacc import kernels
from vamc_py.schedules.vacc.emit.memory_plan import DoesNotFitError
from vamc_py.schedules.vacc.emit.stage import ALIGNMENT, At, Buffer, Ddr, Stage

IN_DDR = Ddr("in", 1024, 4096)


def stage(ssram: int = 1 << 16, ddr: int = 1 << 20) -> Stage:
    return Stage(ssram, ddr, 8192, {"position": 16, "row": 1})


def test_a_kernels_arguments_have_its_sizes() -> None:
    one = stage()
    kernel = kernels.add_rows(4, 16, residual=True, out_stride=48, cores=2)  # out: 3 rows of 192 bytes, then 64
    x, y, out = one.buffer("x", 64, "float16"), one.buffer("y", 64, "float32"), one.buffer("out", 4 * 48, "float32")
    one.launch(kernel, At(x), At(y), At(out, 64, 64, 4, 192))
    with pytest.raises(AssertionError, match=r"add_rows_.*\.out: 768 bytes for 640"):
        one.launch(kernel, At(x), At(y), At(out))
    with pytest.raises(ValueError, match="longer than argument 1"):
        one.launch(kernel, At(x), At(y))
    assert set(one.kernels) == set(one.used) == {kernel.name}


def test_both_sides_of_a_transfer_have_the_same_bytes() -> None:
    one = stage()
    to = one.buffer("to", 64, "float32")
    one.transfer("idma", At(IN_DDR, 0, 64, 4, 128), At(to))
    with one.label("layer"), pytest.raises(AssertionError, match="layer: 256 bytes to 252"):
        one.transfer("idma", At(IN_DDR, 0, 64, 4, 128), At(to, 4))


def test_labels_nest_and_end() -> None:
    one = stage()
    to = one.buffer("to", 16, "float32")
    for label in ("outer", "inner"):
        with one.label(label):
            one.transfer("idma", At(IN_DDR, 0, 64), At(to))
    with one.label("outer"):
        with pytest.raises(ZeroDivisionError), one.label("inner"):
            raise ZeroDivisionError
        one.transfer("idma", At(IN_DDR, 0, 64), At(to))
        assert one.buffer("x", 1, "int8").name == "outer.x"
    assert [command.label for command in one.finish().commands] == ["outer", "inner", "outer"]


def test_a_ring_gives_its_slots_by_turns_and_grows_to_the_largest() -> None:
    one = stage()
    first = one.ring("weights", 3, 100, lasting=True)
    taken = [first.next() for _ in range(4)]
    assert taken[0] is taken[3]
    assert len({id(slot) for slot in taken}) == 3
    again = one.ring("weights", 3, 300, lasting=True)
    assert again is first
    assert again.next() is taken[1]
    assert {slot.bytes for slot in taken} == {300}


def test_a_ring_that_does_not_last_is_the_operators_own() -> None:
    """What one operator had in flight gives its place to what the next one has."""
    one = stage()
    for label in ("first", "second"):
        with one.label(label):
            for _ in range(3):
                at = At(one.ring("out", 2, 64, lasting=False).next(), 0, 64)
                one.transfer("idma", At(IN_DDR, 0, 64), at)
    finished = one.finish()
    at = [command.target.offset for command in finished.commands if isinstance(command, Transfer)]
    assert at == [0, 64, 0, 0, 64, 0]
    assert finished.ssram_bytes == 2 * ALIGNMENT


def test_a_slot_of_a_lasting_ring_keeps_its_place_where_a_buffer_does_not() -> None:
    """Between two uses of a slot nothing else lies there; a buffer's place is free behind its last use."""
    one = stage()
    slot = At(one.ring("ring", 1, 64, lasting=True).next(), 0, 64)
    early, late = (At(one.buffer(name, 16, "float32")) for name in ("early", "late"))
    for target in (slot, early, late, slot):
        one.transfer("idma", At(IN_DDR, 0, 64), target)
    finished = one.finish()
    at = [command.target.offset for command in finished.commands if isinstance(command, Transfer)]
    assert at[0] == at[3] != at[1] == at[2]
    assert finished.ssram_bytes == 2 * ALIGNMENT


@given(st.lists(st.integers(1, 200), min_size=1, max_size=8))
def test_buffers_begin_at_multiples_of_the_alignment(sizes: list[int]) -> None:
    one = stage()
    buffers = [At(one.buffer("b", size, "int8")) for size in sizes]
    for at in buffers:
        one.transfer("idma", At(IN_DDR, 0, at.row_bytes), at)
    for at in buffers:  # all live at once
        one.transfer("odma", at, At(one.buffer("out", at.row_bytes, "int8", "ddr")))
    finished = one.finish()
    offsets = [command.target.offset for command in finished.commands]  # type: ignore[union-attr]
    assert all(offset % ALIGNMENT == 0 for offset in offsets)
    assert finished.ssram_bytes == sum(-(-size // ALIGNMENT) * ALIGNMENT for size in sizes)
    assert all(offset >= one.scratch for offset in offsets[len(sizes) :])
    assert finished.scratch_bytes == ALIGNMENT * -(-max(sizes) // ALIGNMENT)  # one after the other


def test_what_does_not_fit_is_refused_for_either_memory() -> None:
    for ssram, ddr, memory in ((100, 1 << 20, "SSRAM"), (1 << 16, 8192 + 100, "DDR")):
        one = stage(ssram, ddr)
        at = At(one.buffer("x", 101, "int8"))
        one.transfer("idma", At(IN_DDR, 0, 101), at)
        one.transfer("odma", at, At(one.buffer("y", 101, "int8", "ddr")))
        with pytest.raises(DoesNotFitError, match=f"^128 bytes of {memory} are needed at a time, 100 are there"):
            one.finish()


def test_an_access_is_that_of_its_buffers_address() -> None:
    buffer = Buffer("b", 640)
    access = At(buffer, 32, 64, 3, 128).access({buffer: 4096})
    assert (access.memory, access.offset, access.size, access.rows, access.stride) == ("ssram", 4128, 64, 3, 128)
    assert access.span == At(buffer, 32, 64, 3, 128).span == 320
    whole = At(IN_DDR, 96).access({})
    assert (whole.memory, whole.offset, whole.bytes, whole.stride) == ("ddr", 1120, 4000, 0)
