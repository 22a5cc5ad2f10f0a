"""Timelines of small programs, computed by hand."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.timed_programs import (
    QUIET,
    all_reduce,
    ddr,
    gather,
    launch,
    load,
    matrix_work,
    mma,
    program,
    random_commands,
    ssram,
    store,
    vector_work,
)

from vamc_py.errors import UserError
from vamc_py.runstream.program import Access, Command, Program, Transfer, Work
from vamc_py.runstream.timing import NOBODY, simulate
from vamc_py.target.vacc.device import Device

NS = 1e-9
KERNELS = {"work": vector_work(1600)}  # 1 us and the launch


def vector(waits: tuple[int, ...] = (), kernel: str = "work") -> Command:
    return launch(kernel, waits, engine="vector")


def spans(*programs: Program, rank: int = 0, device: Device = QUIET) -> list[tuple[Any, Any]]:
    """Start and end of each command in nanoseconds, for ``approx``."""
    die = simulate(programs, device).dies[rank]
    pairs = zip(die.start / NS, die.end / NS, strict=True)
    return [(pytest.approx(start, abs=0.01), pytest.approx(end, abs=0.01)) for start, end in pairs]


def test_one_transfer_takes_its_latency_and_its_bytes() -> None:
    assert spans(program(load(6400))) == [(0, 1 + 6400)]


def test_an_engine_slower_than_ddr_counts() -> None:
    assert spans(program(load(6400, "cdma"))) == [(0, 1 + 12800)]


def test_two_transfers_share_the_bandwidth() -> None:
    """Both at half of it until the first is through, then the other one has all."""
    assert spans(program(load(640, "wddma"), load(6400, "idma"))) == [(0, 1 + 1280), (0, 1 + 7040)]


def test_what_a_slow_engine_leaves_the_others_get() -> None:
    """cdma takes 0.5 GB/s; of three with 333 MB/s each it would take all of its share."""
    device = Device.named("tiny", {"dma_latency_s": NS, "cdma_bytes_s": 200e6})
    found = spans(program(load(6400, "cdma"), load(6400, "idma")), device=device)
    assert found == [(0, 1 + 32000), (0, 1 + 8000)]


def test_a_queue_keeps_its_order() -> None:
    assert spans(program(load(640), load(640))) == [(0, 641), (641, 1282)]


def test_an_event_waits() -> None:
    found = spans(program(load(640), vector((0,)), store(640, (1,)), kernels=KERNELS))
    assert found == [(0, 641), (641, 641 + 1001), (1642, 1642 + 641)]


def test_double_buffering_hides_the_transfers() -> None:
    """Each load but the first runs beside the kernel before it, into the buffer of the kernel before that."""
    kernels = {"work": vector_work(1600)}
    commands: list[Command] = []
    for step in range(8):
        free = (2 * step - 3,) if step > 1 else ()
        commands += [load(640, waits=free), vector((2 * step,))]
    single: list[Command] = []
    for step in range(8):
        single += [load(640, waits=(2 * step - 1,) if step else ()), vector((2 * step,))]
    double_end = simulate([program(*commands, kernels=kernels)], QUIET).seconds
    single_end = simulate([program(*single, kernels=kernels)], QUIET).seconds
    assert double_end == pytest.approx((641 + 8 * 1001) * NS)
    assert single_end == pytest.approx(8 * (641 + 1001) * NS)


def test_what_a_command_waited_for_is_known() -> None:
    die = simulate([program(load(640), load(1280, "idma"), vector((0, 1)), vector(), kernels=KERNELS)], QUIET).dies[0]
    assert list(die.waited_for) == [NOBODY, NOBODY, 1, NOBODY]
    assert die.ready[2] == 0
    assert die.ready[3] == die.start[3] == die.end[2]


def test_strided_rows_cost_bursts() -> None:
    """100 rows of 16 bytes move 64 each; without gaps they are one."""
    strided = load(16, rows=100)
    tight = Transfer(engine="wddma", source=ddr(16, 100, 16), target=ssram(1600))
    assert spans(program(strided)) == [(0, 1 + 6400)]
    assert spans(program(tight)) == [(0, 1 + 1600)]


def test_a_slow_engine_is_not_slowed_by_the_rest_of_a_burst() -> None:
    """cdma moves 1600 bytes at 0.5 GB/s in 3.2 us, DDR their 6400 bytes at 1 GB/s in 6.4 us."""
    assert spans(program(Transfer(engine="cdma", source=ddr(16, 100, 64), target=ssram(1600)))) == [(0, 1 + 6400)]


def test_copies_in_one_memory() -> None:
    within_ddr = Transfer(engine="wddma", source=ddr(640), target=ddr(640, offset=1024))
    within_ssram = Transfer(engine="wddma", source=ssram(640), target=ssram(640, 1024))
    assert spans(program(within_ddr, load(640, "idma"))) == [(0, 1 + 1920), (0, 1 + 1280)]
    assert spans(program(within_ssram, load(640, "idma"))) == [(0, 1 + 640), (0, 1 + 640)]


def test_a_gather_reads_an_entry_for_each_index() -> None:
    """10 entries of 3 pieces of 32 bytes, each a burst; cdma moves its 960 bytes at 0.5 GB/s meanwhile."""
    assert spans(program(gather(10, 32, rows=3))) == [(0, 1 + 10 * 3 * 64)]
    index = Access(memory="ddr", offset=0, size=40)
    from_ddr = gather(10, 64).model_copy(update={"index": index})
    assert spans(program(from_ddr)) == [(0, 1 + 2 * 640)]  # bound by the engine


def test_a_kernel_takes_as_long_as_its_slowest_core() -> None:
    short, long = vector_work(16).work[0], vector_work(1600).work[0]
    record = vector_work(1).model_copy(update={"work": (short, long)})
    assert spans(program(vector(), kernels={"work": record})) == [(0, 1001)]


def test_intrinsics() -> None:
    """A core: 50 GFLOPS, 6.4 GB/s of operands, 1.6 G sums and 1.6 G lanes a second."""
    device = Device.named("tiny", {"launch_s": NS, "operand_bytes": 6400})
    kernels = {
        "padded": matrix_work(mma(1, 17, 16)),  # 1 x 2 x 1 tiles of 8192 operations
        "operands": matrix_work(mma(16, 16, 16, count=3)),
        "drain": matrix_work(Work(intrinsic="drain", sizes=(1600,), count=2)),
        "both": matrix_work(mma(16, 16, 16), Work(intrinsic="vector", sizes=(160, 5), count=1)),
    }
    one = program(*(launch(name) for name in kernels), kernels=kernels)
    die = simulate([one], device).dies[0]
    assert (die.end - die.start)[[0, 2, 3]] == pytest.approx([328.68e-9, 2001e-9, 1e-9 + 163.84e-9 + 500e-9])
    assert simulate([one], QUIET).dies[0].end[1] - simulate([one], QUIET).dies[0].start[1] == pytest.approx(
        1e-9 + 3 * 163.84e-9  # 32 rows x 16 x 2 bytes / 6.4 GB/s = 160 ns is less than the product
    )
    slow = Device.named("tiny", {"launch_s": NS, "operand_bytes": 32})
    die = simulate([one], slow).dies[0]
    assert die.end[1] - die.start[1] == pytest.approx(1e-9 + 3 * 320e-9)


def test_int8_has_its_own_rate() -> None:
    work = Work(intrinsic="mma_i8", sizes=(16, 16, 160), count=1)
    (span,) = spans(program(launch("m"), kernels={"m": matrix_work(work)}))
    assert span == (0, 1 + 819.2)


def test_a_collective_waits_for_the_slowest_die() -> None:
    """0.5 GB/s between dies: an all_reduce of 6000 bytes over two dies moves 6000 and takes two latencies."""
    kernels = {"short": vector_work(160), "long": vector_work(1600)}
    fast = program(vector(kernel="short"), all_reduce(6000, (0,)), rank=0, ranks=2, kernels=kernels)
    slow = program(vector(kernel="long"), all_reduce(6000, (0,)), rank=1, ranks=2, kernels=kernels)
    assert spans(fast, slow, rank=0) == [(0, 101), (1001, 1001 + 12000 + 2)]
    assert spans(fast, slow, rank=1) == [(0, 1001), (1001, 1001 + 12000 + 2)]
    die = simulate([slow, fast], QUIET).dies[0]
    assert list(die.dies_s) == pytest.approx([0, 900 * NS])


def test_dies_of_two_cards_have_the_slower_link() -> None:
    device = Device.named("tiny", {"dies": 3, "link_latency_s": NS, "far_link_latency_s": 10 * NS})
    near = [program(all_reduce(3000), rank=rank, ranks=3) for rank in range(3)]
    far = [program(all_reduce(4000), rank=rank, ranks=4) for rank in range(4)]
    assert simulate(near, device).seconds == pytest.approx((2 * 2 / 3 * 3000 / 0.5 + 2 * 2) * NS)
    assert simulate(far, device).seconds == pytest.approx((2 * 3 / 4 * 4000 / 0.25 + 2 * 3 * 10) * NS)


def test_an_all_gather_counts_its_target() -> None:
    one = all_reduce(1000).model_copy(update={"kind": "all_gather", "target": ssram(4000)})
    programs = [program(one, rank=rank, ranks=4) for rank in range(4)]
    assert simulate(programs, QUIET).seconds == pytest.approx((3 / 4 * 4000 / 0.5 + 3) * NS)


def test_a_die_alone_has_nothing_to_exchange() -> None:
    assert simulate([program(all_reduce(4000))], QUIET).seconds == 0


def test_dies_that_cost_the_same_are_simulated_once() -> None:
    programs = [program(load(640), all_reduce(64, (0,)), rank=rank, ranks=3) for rank in range(3)]
    programs[1] = programs[1].model_copy(
        update={"commands": (programs[1].commands[0].model_copy(update={"label": "elsewhere"}), all_reduce(64, (0,)))}
    )
    dies = simulate(programs, QUIET).dies
    assert dies[0] is dies[1] is dies[2]


def test_twenty_thousand_commands_of_four_different_dies_take_seconds() -> None:
    programs = []
    for rank in range(4):
        kernels = {"work": vector_work(1600 + 16 * rank)}
        commands: list[Command] = []
        for step in range(5000):
            free = (4 * step - 7,) if step > 1 else ()
            commands += [load(640, waits=free), vector((4 * step,)), store(64, (4 * step + 1,))]
            commands += [all_reduce(64, (4 * step + 1,)) if step % 50 == 0 else load(64, "idma")]
        programs.append(program(*commands, kernels=kernels, rank=rank, ranks=4))
    start = time.process_time()
    timeline = simulate(programs, QUIET)
    assert time.process_time() - start < 15
    assert len({id(die) for die in timeline.dies}) == 4


def test_programs_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(UserError, match=r"2 dies take part, ranks 0 to 1, and there are programs of 0$"):
        simulate([program(load(64), ranks=2)], QUIET)
    with pytest.raises(UserError, match="rank 1 has a program of decode for 2 dies, and rank 0 one of prefill for 2"):
        simulate([program(ranks=2), program(rank=1, ranks=2, stage="decode")], QUIET)
    with pytest.raises(UserError, match="there is no program"):
        simulate([], QUIET)


def test_a_wait_for_a_later_command_is_refused() -> None:
    with pytest.raises(UserError, match=r"rank 0: command 0 \(first\) waits for command 1, which is not before it"):
        simulate([program(load(64, waits=(1,), label="first"), load(64))], QUIET)


def test_a_missing_collective_is_named() -> None:
    first = program(all_reduce(64, label="o_proj"), rank=0, ranks=2)
    with pytest.raises(UserError, match=r"rank 0: command 0 \(o_proj\) is a collective that rank 1 does not take part"):
        simulate([first, program(load(64), rank=1, ranks=2)], QUIET)
    with pytest.raises(UserError, match=r"different collectives: rank 0.* 64 bytes .*; rank 1.* 128 bytes"):
        simulate([first, program(all_reduce(128), rank=1, ranks=2)], QUIET)
    halves = all_reduce(64).model_copy(update={"dtype": "float16"})  # costs the same
    with pytest.raises(UserError, match=r"different collectives: rank 0.* of float32; rank 1.* of float16"):
        simulate([first, program(halves, rank=1, ranks=2)], QUIET)


def test_kernels_that_cannot_run_are_refused() -> None:
    with pytest.raises(UserError, match=r"command 0 \(norm\) launches work, which is no kernel here"):
        simulate([program(launch("work", label="norm"))], QUIET)
    with pytest.raises(UserError, match="the kernel work runs on 3 cores, and tiny has 2"):
        simulate([program(kernels={"work": vector_work(16, cores=3)})], QUIET)


def test_an_empty_program_takes_no_time() -> None:
    assert simulate([program()], QUIET).seconds == 0


@settings(deadline=None, max_examples=60)
@given(random_commands(), st.integers(1, 3))
def test_orders_hold_and_ddr_is_never_overdrawn(commands: list[Command], ranks: int) -> None:
    programs = [program(*commands, kernels=KERNELS, rank=rank, ranks=ranks) for rank in range(ranks)]
    timeline = simulate(programs, QUIET)
    die = timeline.dies[-1]
    last: dict[str, float] = {}
    for number, command in enumerate(commands):
        assert die.start[number] >= max([0.0, *(die.end[other] for other in command.waits)])
        assert die.start[number] >= last.get(command.engine, 0.0)
        assert die.end[number] >= die.start[number] + die.costs[number].seconds * (1 - 1e-9)
        last[command.engine] = die.end[number]
    moved = sum(cost.ddr_bytes for cost in die.costs)
    assert moved <= QUIET.ddr_bytes_s * timeline.seconds * (1 + 1e-9)
    alone = sum(
        cost.seconds + (cost.ddr_bytes / min(cost.ddr_bytes_s, QUIET.ddr_bytes_s) if cost.ddr_bytes else 0)
        for cost in die.costs
    )
    assert timeline.seconds <= alone * (1 + 1e-9)  # no better than in parallel, no worse than one by one
