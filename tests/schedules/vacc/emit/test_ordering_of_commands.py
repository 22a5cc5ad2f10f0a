"""Waits: with them no order of two commands is left open that matters, and none of them is there for nothing."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from vamc_py.runstream.order import order_faults
from vamc_py.runstream.program import (
    Access,
    Argument,
    Collective,
    Command,
    DdrTensor,
    Dynamic,
    Gather,
    Launch,
    Program,
    Term,
    Transfer,
)
from vamc_py.runstream.uses import reach as exact_reach
from vamc_py.schedules.vacc.emit.ordering import reach, with_waits

CELLS, CELL = 12, 4  # of either memory; bytes
BYTES = CELLS * CELL
REGISTERS = {"position": 3}
AT = Dynamic(register_name="position", terms=(Term(factor=CELL),))


def access(memory: Any, first: int, last: int, **more: Any) -> Access:
    return Access(memory=memory, offset=first * CELL, size=(last - first) * CELL, **more)


@st.composite
def commands(draw: st.DrawFn, *, gaps: bool = False) -> list[Command]:
    """Commands over both memories, all of which has been written at first; `gaps`: also rows, and registers."""
    whole = {memory: access(memory, 0, CELLS) for memory in ("ddr", "ssram")}
    made: list[Command] = [
        Transfer(engine="cdma", source=access("ssram", 0, CELLS), target=whole["ddr"]),
        Transfer(engine="cdma", source=access("ddr", 0, CELLS), target=whole["ssram"]),
    ]
    for _ in range(draw(st.integers(0, 12))):
        ends = sorted(draw(st.lists(st.integers(0, CELLS), min_size=6, max_size=6, unique=True)))
        spans = draw(st.permutations([ends[:2], ends[2:4], ends[4:]]))  # a command's own accesses are apart
        memories = draw(st.lists(st.sampled_from(["ddr", "ssram"]), min_size=3, max_size=3))
        at = [access(memory, *span) for memory, span in zip(memories, spans, strict=True)]
        if gaps and spans[0][1] - spans[0][0] >= 3:
            at[0] = Access(memory=at[0].memory, offset=at[0].offset, size=CELL, rows=2, stride=2 * CELL)
        if gaps and ends[5] + 2 <= CELLS and draw(st.booleans()):
            last = spans.index(ends[4:])
            at[last] = at[last].model_copy(update={"at": AT})
        made.append(draw(one_command(at)))
    return made


@st.composite
def one_command(draw: st.DrawFn, at: list[Access]) -> Command:
    """A command of any kind; that its sizes make no sense is of no concern to orders."""
    kind = draw(st.sampled_from(["transfer", "launch", "gather", "all_reduce"]))
    if kind == "transfer":
        engine = draw(st.sampled_from(["idma", "odma", "wddma", "cdma"]))
        return Transfer(engine=engine, source=at[0], target=at[1])
    if kind == "launch":
        modes = draw(st.lists(st.sampled_from(["read", "write", "update"]), min_size=3, max_size=3))
        engine = draw(st.sampled_from(["matrix", "vector"]))
        arguments = tuple(Argument(access=one, mode=mode) for one, mode in zip(at, modes, strict=True))
        return Launch(engine=engine, kernel="kernel", arguments=arguments)
    if kind == "gather":
        table = at[1].model_copy(update={"at": None, "rows": 1, "stride": 0})
        return Gather(index=at[0], table=table, entry=(Term(factor=CELL),), first=0, entries=1, target=at[2])
    return Collective(kind="all_reduce", dtype="float32", source=at[0], target=at[1])


def program(ordered: tuple[Command, ...]) -> Program:
    return Program(
        device="made",
        stage="decode",
        tokens=1,
        context=3,
        rank=0,
        ranks=1,
        registers=REGISTERS,
        ddr_bytes=BYTES,
        ssram_bytes=BYTES,
        tensors=(DdrTensor(name="scratch", role="scratch", dtype="uint8", shape=(BYTES,), offset=0, size=BYTES),),
        kernels={},
        commands=ordered,
    )


def unordered(ordered: tuple[Command, ...]) -> list[str]:
    """The pairs that may run in either order; that the first command reads what nothing wrote does not matter here."""
    return [fault for fault in order_faults(program(ordered)) if "no event orders" in fault]


@settings(max_examples=60, deadline=None)
@given(commands(gaps=True))
def test_all_that_matters_is_ordered(many: list[Command]) -> None:
    assert unordered(with_waits(many, REGISTERS)) == []


@settings(max_examples=60, deadline=None)
@given(commands())
def test_without_any_one_wait_two_commands_may_meet(many: list[Command]) -> None:
    """Of accesses without gaps; bytes between rows, and those a register may lead to, count as touched."""
    ordered = with_waits(many, REGISTERS)
    for number, command in enumerate(ordered):
        for wait in command.waits:
            fewer = command.model_copy(update={"waits": tuple(other for other in command.waits if other != wait)})
            assert unordered((*ordered[:number], fewer, *ordered[number + 1 :])) != []


def test_what_a_queue_or_another_wait_orders_is_not_waited_for() -> None:
    load = Transfer(engine="idma", source=access("ddr", 0, 2), target=access("ssram", 0, 2))
    use = Collective(kind="all_reduce", dtype="float32", source=access("ssram", 0, 2), target=access("ssram", 4, 6))
    store = Transfer(engine="odma", source=access("ssram", 4, 6), target=access("ddr", 4, 6))
    twice = [load, use, store, load, use, store]
    assert [one.waits for one in with_waits(twice, {})] == [(), (0,), (1,), (1,), (2, 3), (4,)]


terms = st.lists(
    st.builds(Term, divide=st.integers(1, 20), modulo=st.none() | st.integers(1, 20), factor=st.integers(0, 50)),
    max_size=3,
)


@given(terms, st.integers(1, 60))
@example([Term(divide=16, factor=512), Term(modulo=16, factor=2)], 48)
def test_the_reach_of_a_register_covers_every_value(many: list[Term], limit: int) -> None:
    """It may say too much: the terms' largest values need not come together."""
    one = Access(memory="ddr", offset=7, size=3, at=Dynamic(register_name="row", terms=tuple(many)))
    start, stop = reach(one, {"row": limit})
    low, high = exact_reach(one, {"row": limit})
    assert start <= low
    assert high <= stop
    if limit % 16 == 0 and [term.modulo for term in many] == [None, 16] and many[0].divide == 16:
        assert (start, stop) == (low, high)  # the K cache's, whose blocks are whole
