"""Executing made programs: what they compute, and that what is forbidden stops with the command's number."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import runstreams as made
from support.runstreams import ddr, launch, load, moved, program, reduce, ssram, store

from vamc_py.errors import ArtifactError
from vamc_py.runstream.check import check_program
from vamc_py.runstream.execute import Die, run_stage
from vamc_py.runstream.memory import AccessError, DeviceFault, DieMemory, StageMemory
from vamc_py.runstream.program import Access, Collective, Command, Gather, Program, Term
from vamc_py.runstream.uses import Use

KERNELS: dict[str, Callable[..., Any]] = {"add": made.add}
LINE = 4 * made.VOCAB  # bytes of one line of logits
OUT = ddr(made.LOGITS.offset, LINE)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """mod.params of the made programs: 0, 1, 2, … as float32."""
    path = tmp_path / "mod.params"
    path.write_bytes(np.arange((made.WEIGHT.size + made.TABLE.size) // 4, dtype=np.float32).tobytes())
    return path


def die(weights: Path, *, ssram_bytes: int = made.SSRAM_BYTES, kernels: Any = KERNELS) -> Die:
    return Die(DieMemory(weights, ddr_bytes=made.DDR_BYTES, ssram_bytes=ssram_bytes), kernels)


def run(
    dies: Sequence[Die],
    programs: Sequence[Program],
    tokens: Sequence[int] = (0, 0, 0, 0),
    position: int = 0,
    row: int = 0,
) -> np.ndarray[Any, Any]:
    inputs = {"tokens": np.array(tokens, np.int32)}
    return run_stage(dies, programs, inputs, {"position": position, "row": row})


def checked(commands: Sequence[Command], **changes: Any) -> Program:
    """A program that the static check lets pass."""
    whole = program(commands, **changes)
    check_program(whole, ssram_bytes=made.SSRAM_BYTES, ddr_bytes=made.DDR_BYTES)
    return whole


def filled(*commands: Command) -> list[Command]:
    """These commands, then logits from the first line of the weight, over SSRAM from byte 896 on."""
    line = ssram(896, LINE)
    number = len(commands)
    return [*commands, load(ddr(0, LINE), line, engine="cdma"), store(line, OUT, waits=(number,))]


def test_a_kernel_takes_scalars_from_registers(weights: Path) -> None:
    whole = made.sum_of_rows()
    check_program(whole, ssram_bytes=made.SSRAM_BYTES, ddr_bytes=made.DDR_BYTES)
    one = die(weights)
    row = np.arange(made.VOCAB, dtype=np.float32)
    for position in (0, 3, 15):  # again on the same die: what is kept between steps does not disturb
        logits = run([one], [whole], position=position)
        np.testing.assert_array_equal(logits, row + position * (row + made.VOCAB))
    assert logits.dtype == np.float32


def test_logits_are_a_copy(weights: Path) -> None:
    one, whole = die(weights), made.sum_of_rows()
    first = run([one], [whole], position=1)
    kept = first.copy()
    run([one], [whole], position=2)
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (ddr(0, 128), ssram(4, 8, 16, 12)),  # spread
        (ddr(0, 8, 16, 12), ssram(0, 128)),  # collected
        (ddr(4, 2, 42, 6), ssram(6, 2, 42, 4)),  # many small rows
        (ddr(0, 32, 3, 64), ssram(0, 24, 4, 40)),  # rows of unlike sizes
        (ddr(0, 24, 4, 24), ssram(0, 32, 3, 32)),  # rows that touch
        (ddr(1, 7, 5, 9), ssram(3, 5, 7, 11)),  # at odd bytes
    ],
)
def test_a_transfer_keeps_the_order_of_bytes(weights: Path, source: Access, target: Access) -> None:
    back = made.SCRATCH.offset
    commands = [load(source, target), store(target, ddr(back, target.bytes), waits=(0,)), *filled()[:1]]
    commands.append(store(ssram(896, LINE), OUT, waits=(2,)))
    one = die(weights)
    run([one], [checked(commands)])
    file = np.frombuffer(weights.read_bytes(), np.uint8)
    wanted = np.concatenate([file[source.offset + r * source.stride :][: source.size] for r in range(source.rows)])
    np.testing.assert_array_equal(one.memory.ddr(back, target.bytes), wanted)


def test_caches_are_zero_at_first_and_keep_what_steps_wrote(weights: Path) -> None:
    """Each step writes tokens to the cache at its position and gives the whole of the cache as logits."""
    entry, line = ssram(0, 16), ssram(64, 16, 8, 16)
    commands = [
        load(ddr(made.INPUT.offset, 16), entry),
        store(entry, ddr(made.CACHE.offset, 16, at=moved("position", 64)), waits=(0,)),
        load(ddr(made.CACHE.offset, 16, 8, 64), line, waits=(1,)),
        store(line, OUT, waits=(2,)),
    ]
    one, whole = die(weights), checked(commands)
    wanted = np.zeros((8, 4), np.int32)
    for position, tokens in ((2, (1, 2, 3, 4)), (0, (5, 6, 7, 8)), (2, (9, 9, 9, 9)), (15, (1, 1, 1, 1))):
        logits = run([one], [whole], tokens, position)
        if position < 8:
            wanted[position] = tokens
        np.testing.assert_array_equal(logits.view(np.int32).reshape(8, 4), wanted)


def test_two_stages_share_the_caches(weights: Path) -> None:
    entry, line = ssram(0, 16), ssram(64, 128)
    prefill = checked(
        [load(ddr(made.INPUT.offset, 16), entry), store(entry, ddr(made.CACHE.offset, 16), waits=(0,)), *_line_out(2)]
    )
    tokens = made.INPUT.model_copy(update={"shape": (1,), "size": 4})
    others = tuple(tokens if tensor.name == "tokens" else tensor for tensor in made.TENSORS)
    decode = checked(
        [load(ddr(made.CACHE.offset, 128), line), store(line, OUT, waits=(0,))],
        stage="decode",
        tokens=1,
        tensors=others,
    )
    one = die(weights)
    run([one], [prefill], (4, 3, 2, 1))
    logits = run([one], [decode], (0,))
    assert logits.view(np.int32)[:5].tolist() == [4, 3, 2, 1, 0]


def _line_out(number: int) -> list[Command]:
    line = ssram(896, LINE)
    return [load(ddr(0, LINE), line, engine="cdma"), store(line, OUT, waits=(number,))]


@pytest.mark.parametrize("pieces", [False, True])
def test_a_gather_takes_entries_and_zeros(weights: Path, pieces: bool) -> None:
    """Entries 2 to 5 of the table are here: rows of 64 bytes, or four columns of a panel, 4 pieces of 4 bytes each."""
    table = ddr(made.TABLE.offset, 4, 4, 64) if pieces else ddr(made.TABLE.offset, 64)
    entry = (Term(divide=2, factor=256), Term(modulo=2, factor=4)) if pieces else (Term(factor=64),)
    count = table.bytes
    target = ssram(128, count, 4, count)
    commands = [
        Gather(
            index=ddr(made.INPUT.offset, 16), table=table, entry=entry, first=2, entries=4, target=target, label="embed"
        ),
        store(target, ddr(made.SCRATCH.offset, 4 * count), waits=(0,)),
        *_line_out(3)[:1],
        store(ssram(896, LINE), OUT, waits=(2,)),
    ]
    one = die(weights)
    run([one], [checked(commands)], (5, 1, 2, 6))
    file = np.frombuffer(weights.read_bytes(), np.float32)[64:].reshape(8, 16)
    wanted = [file.reshape(2, 4, 16)[n // 2, :, n % 2] if pieces else file[n] for n in (3, 0)]
    got = one.memory.ddr(made.SCRATCH.offset, 4 * count).view(np.float32).reshape(4, -1)
    np.testing.assert_array_equal(got, np.stack([wanted[0], 0 * wanted[0], wanted[1], 0 * wanted[0]]))


def test_a_dynamic_row_is_selected(weights: Path) -> None:
    lines, line = ssram(0, 512), ssram(512, 128)
    commands = [
        load(ddr(made.TABLE.offset, 512), lines),
        load(ssram(0, 128, at=moved("row", 128)), line, engine="cdma", waits=(0,)),
        store(line, OUT, waits=(1,)),
    ]
    one, whole = die(weights), checked(commands)
    for row in range(made.TOKENS):
        assert run([one], [whole], row=row)[0] == 64 + 32 * row


def test_a_kernel_at_a_dynamic_address(weights: Path) -> None:
    lines, out = ssram(0, 512), ssram(512, 128)
    chosen = ssram(0, 128, at=moved("row", 128))
    commands = [
        load(ddr(made.TABLE.offset, 512), lines),
        launch((chosen, "read"), (chosen, "read"), (out, "write"), n=1, waits=(0,)),
        store(out, OUT, waits=(1,)),
    ]
    one, whole = die(weights), checked(commands)
    assert [run([one], [whole], row=row)[0] for row in range(4)] == [2 * (64 + 32 * row) for row in range(4)]


def exchanging(rank: int, dtype: str = "float32", ranks: int = 3) -> Program:
    """logits = the sum over ranks of row ``rank`` of the table, in place in SSRAM."""
    line = ssram(0, LINE)
    commands = [
        load(ddr(made.TABLE.offset + rank * LINE, LINE), line),
        reduce(line, line, waits=(0,), dtype=dtype),
        store(line, OUT, waits=(1,)),
    ]
    return checked(commands, rank=rank, ranks=ranks)


def test_all_reduce_adds_in_the_order_of_ranks(tmp_path: Path) -> None:
    values = np.array([3e4, 4e4, -5e4, 1, 1e-3, 0.5, 2049, 1], np.float16)
    rows = np.zeros((6, LINE // 2), np.float16)
    rows[2:5, :3] = [[6e4, 1, 2049], [6e4, 2**-11, 1], [-6e4, 2**-11, -1]]
    rows[2:5, 3:11] = values
    (tmp_path / "mod.params").write_bytes(np.concatenate([rows.reshape(-1).view(np.uint8)]).tobytes())
    dies = [die(tmp_path / "mod.params") for _ in range(3)]
    logits = run(dies, [exchanging(rank, "float16") for rank in range(3)])
    got = logits.view(np.float16)
    # 6e4 + 6e4 does not fit float16 on the way, and 1 + 2^-11 + 2^-11 is rounded once, not twice to 1.
    assert got[:3].tolist() == [np.float16(6e4), 1 + 2**-10, 2049 // 2 * 2]
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(got[3:11], (3 * values.astype(np.float32)).astype(np.float16))


def test_all_gather_lays_rows_side_by_side(weights: Path) -> None:
    programs = []
    for rank in range(2):
        part, both = ssram(0, 8, 8, 24), ssram(256, 16, 8, 16)
        commands = [
            load(ddr(made.TABLE.offset + 64 * rank, 64), part),
            Collective(kind="all_gather", dtype="float32", source=part, target=both, waits=(0,)),
            store(both, OUT, waits=(1,)),
        ]
        programs.append(checked(commands, rank=rank, ranks=2))
    logits = run([die(weights), die(weights)], programs)
    rows = 64 + np.arange(32, dtype=np.float32).reshape(2, 8, 2)
    np.testing.assert_array_equal(logits, np.concatenate(list(rows), axis=1).reshape(-1))


def test_dies_that_do_not_agree_are_a_fault(weights: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(bytes(768))
    programs = [made.sum_of_rows(rank=rank, ranks=2) for rank in range(2)]
    with pytest.raises(DeviceFault, match=r"rank 1: command 3 .logits. .* logits are not those of rank 0"):
        run([die(weights), die(other)], programs)


def test_a_missing_rank_is_named(weights: Path) -> None:
    with pytest.raises(ArtifactError, match="rank 2 of 3 is missing; compile the artifact again"):
        run([die(weights), die(weights)], [exchanging(0), exchanging(1)])


def test_ranks_that_do_not_meet_are_a_fault(weights: Path) -> None:
    lonely = checked(filled(), rank=1, ranks=2)
    with pytest.raises(DeviceFault, match="rank 1: command 1 is the last one, and other ranks wait for an exchange"):
        run([die(weights), die(weights)], [exchanging(0, ranks=2), lonely])
    with pytest.raises(DeviceFault, match="rank 1: command 1 is all_reduce of 128 bytes of float16, and another"):
        run([die(weights), die(weights)], [exchanging(0, ranks=2), exchanging(1, "float16", ranks=2)])


# Programs that no check has seen: the device finds the faults by itself.
FAULTY: list[tuple[str, list[Command], int, int, str]] = [
    ("unwritten", [store(ssram(64, 128), OUT)], 0, 64, "reads SSRAM at byte 64, which was not written"),
    (
        "half written",
        [load(ddr(0, 64), ssram(0, 64)), store(ssram(0, 128), OUT)],
        1,
        64,
        "reads SSRAM at byte 64, which was not written",
    ),
    (
        "between rows",
        [load(ddr(0, 64), ssram(0, 8, 8, 16)), store(ssram(0, 128), OUT)],
        1,
        8,
        "reads SSRAM at byte 8, which was not written",
    ),
    (
        "scratch",
        [load(ddr(made.SCRATCH.offset, 4), ssram(0, 4))],
        0,
        made.SCRATCH.offset,
        f"reads DDR at byte {made.SCRATCH.offset}, which was not written",
    ),
    ("foreign", [load(ddr(1808, 4), ssram(0, 4))], 0, 1808, "reads DDR from byte 1808 to 1812, which does not lie in"),
    ("two tensors", [load(ddr(764, 8), ssram(0, 8))], 0, 764, "reads DDR from byte 764 to 772, which does not lie in"),
    (
        "outside",
        [load(ddr(0, 8), ssram(1020, 8))],
        0,
        1020,
        "writes SSRAM from byte 1020 to 1028, of which the die has 1024 bytes",
    ),
    (
        "a parameter",
        [load(ddr(0, 8), ssram(0, 8)), store(ssram(0, 8), ddr(0, 8), waits=(0,))],
        1,
        0,
        "writes DDR from byte 0 to 8, which belongs to the parameter weight",
    ),
    (
        "a kernel's buffer",
        [launch((ssram(0, 128), "update"), (ssram(128, 128), "read"), (ssram(256, 128), "write"))],
        0,
        0,
        "reads SSRAM at byte 0, which was not written",
    ),
    (
        "a dynamic address",
        [load(ddr(0, 8, at=moved("position", 64)), ssram(0, 8), label="x")],
        0,
        0,
        "reads DDR from byte 0 to 968, which does not lie in",
    ),
]


@pytest.mark.parametrize(("commands", "number", "address", "text"), [f[1:] for f in FAULTY], ids=[f[0] for f in FAULTY])
def test_a_forbidden_access_stops_with_its_command(
    weights: Path, commands: list[Command], number: int, address: int, text: str
) -> None:
    whole = program(commands, rank=0)
    with pytest.raises(DeviceFault, match=re.escape(text)) as raised:
        run([die(weights)], [whole], position=15)
    fault = raised.value
    assert (fault.stage, fault.rank, fault.number, fault.label) == ("prefill", 0, number, commands[number].label)
    assert fault.address == address
    assert str(fault).startswith(f"prefill of rank 0: command {number} ")
    assert str(fault).endswith("; compile the artifact again")


def test_what_the_last_step_wrote_does_not_count(weights: Path) -> None:
    """A step that reads what only another step has written: the die says so in the second step, too."""
    one = die(weights)
    run([one], [checked(filled())])
    late = program([store(ssram(896, LINE), OUT)])
    for _ in range(2):
        with pytest.raises(DeviceFault, match="command 0 reads SSRAM at byte 896, which was not written"):
            run([one], [late])


def test_unwritten_logits_are_a_fault(weights: Path) -> None:
    half = program([load(ddr(0, 64), ssram(0, 64)), store(ssram(0, 64), ddr(made.LOGITS.offset, 64), waits=(0,))])
    with pytest.raises(DeviceFault, match="command 1 is the last one, and 64 of the 128 bytes of logits were written"):
        run([die(weights)], [half])


def test_ssram_of_one_byte_less(weights: Path) -> None:
    whole = checked(filled())
    run([die(weights)], [whole])
    with pytest.raises(DeviceFault, match="command 0 writes SSRAM from byte 896 to 1024, of which the die has 1023"):
        run([die(weights, ssram_bytes=1023)], [whole])


def test_a_buffer_that_is_not_aligned(weights: Path) -> None:
    commands = [
        load(ddr(0, 128), ssram(6, 128)),
        launch((ssram(6, 128), "read"), (ssram(6, 128), "read"), (ssram(256, 128), "write"), waits=(0,)),
    ]
    with pytest.raises(
        DeviceFault, match="command 1 gives a kernel SSRAM at byte 6; it takes float32 in SSRAM at multiples of 4 bytes"
    ):
        run([die(weights)], [program(commands)])


def test_a_kernel_that_is_not_there(weights: Path) -> None:
    with pytest.raises(ArtifactError, match=r"mod\.so has no kernel add, which the prefill of rank 0 launches"):
        run([die(weights, kernels={})], [made.sum_of_rows()])


def test_what_a_kernel_raises_names_the_command(weights: Path) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom") as raised:
        run([die(weights, kernels={"add": broken})], [made.sum_of_rows()])
    assert raised.value.__notes__ == ["in command 2 (sum) of rank 0"]


@pytest.mark.parametrize(
    ("inputs", "registers", "text"),
    [
        ({}, {"position": 0, "row": 0}, "inputs [] instead of ['tokens']"),
        ({"tokens": np.zeros(3, np.int32)}, {"position": 0, "row": 0}, "tokens: int32 [3] instead of int32 [4]"),
        ({"tokens": np.zeros(4, np.int64)}, {"position": 0, "row": 0}, "tokens: int64 [4] instead of int32 [4]"),
        ({"tokens": np.zeros(4, np.int32)}, {"position": 0}, "registers ['position'] instead of ['position', 'row']"),
        ({"tokens": np.zeros(4, np.int32)}, {"position": 16, "row": 0}, "position is 16: it must be from 0 to 15"),
        ({"tokens": np.zeros(4, np.int32)}, {"position": 0, "row": -1}, "row is -1: it must be from 0 to 3"),
    ],
)
def test_arguments_that_are_not_the_programs(weights: Path, inputs: Any, registers: Any, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        run_stage([die(weights)], [made.sum_of_rows()], inputs, registers)


def test_parameters_that_are_missing_or_short(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"none cannot be read: .*; copy or compile the artifact again"):
        die(tmp_path / "none")
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=r"mod\.params has 767 bytes, the prefill of rank 0 reads 768; copy"):
        run([die(weights)], [made.sum_of_rows()])
    with pytest.raises(ArtifactError, match="767 bytes of parameters do not fit the 700 bytes of DDR"):
        DieMemory(weights, ddr_bytes=700, ssram_bytes=64)
    weights.write_bytes(bytes(769))  # one byte of the cache
    with pytest.raises(ArtifactError, match=r"mod\.params has 769 bytes, the prefill of rank 0 reads 768; copy"):
        run([die(weights)], [made.sum_of_rows()])


def test_ddr_that_is_too_small(weights: Path) -> None:
    small = Die(DieMemory(weights, ddr_bytes=made.DDR_BYTES - 1, ssram_bytes=64), KERNELS)
    with pytest.raises(ArtifactError, match="the prefill of rank 0 needs 4096 bytes of DDR, the die has 4095; compile"):
        run([small], [made.sum_of_rows()])


def test_untouched_memory_costs_nothing() -> None:
    """Eight dies of 32 GB, as on two cards; the last byte is there."""
    dies = [DieMemory(None, ddr_bytes=32 << 30, ssram_bytes=40 << 20) for _ in range(8)]
    assert all(one.ddr((32 << 30) - 1, 1).tolist() == [0] for one in dies)


def test_parameters_stay_as_they_are(weights: Path) -> None:
    before = weights.read_bytes()
    one = die(weights)
    run([one], [made.sum_of_rows()])
    assert not one.memory.parameters().flags.writeable
    assert weights.read_bytes() == before


def test_what_a_register_points_to_is_not_all_written(weights: Path) -> None:
    anywhere = ssram(0, 8, at=moved("row", 8))
    whole = program([load(ddr(0, 8), anywhere), store(anywhere, ddr(made.SCRATCH.offset, 8), waits=(0,))])
    with pytest.raises(DeviceFault, match="command 1 reads SSRAM at byte 0, which was not written"):
        run([die(weights)], [whole], row=1)


def test_a_new_step_forgets_what_was_written(weights: Path) -> None:
    whole = made.sum_of_rows()
    stage = StageMemory(die(weights).memory, whole)
    line = ssram(256, LINE)
    writing, reading = stage.place(Use(line, False, True)), stage.place(Use(line, True, False))
    data = np.arange(LINE, dtype=np.uint8)
    writing.write({}, data)
    np.testing.assert_array_equal(reading.read({}), data)
    stage.begin()
    with pytest.raises(AccessError, match="reads SSRAM at byte 256, which was not written"):
        reading.read({})
