"""Faults of tensors and single commands: each is found, and told with its place."""

from __future__ import annotations

import re
from typing import Any

import pytest
from support import runstreams as made
from support.runstreams import ddr, launch, load, moved, program, reduce, ssram, store

from vamc_py.errors import ArtifactError
from vamc_py.runstream.check import check_group, check_program, check_ranks, check_stages
from vamc_py.runstream.program import (
    Access,
    Collective,
    Command,
    Dynamic,
    Gather,
    KernelArgument,
    Launch,
    Program,
    Term,
    Transfer,
    Work,
)


def check(whole: Program, ssram_bytes: int = made.SSRAM_BYTES, ddr_bytes: int = made.DDR_BYTES) -> None:
    check_program(whole, ssram_bytes=ssram_bytes, ddr_bytes=ddr_bytes)


def refused(whole: Program, text: str, **memory: int) -> None:
    """One line, with this text after the program's name."""
    with pytest.raises(ArtifactError) as raised:
        check(whole, **memory)
    assert str(raised.value).startswith(f"{whole.stage} of rank {whole.rank}: {text}"), raised.value
    assert str(raised.value).endswith("; compile the artifact again")
    assert "\n" not in str(raised.value)


def test_a_right_program_passes() -> None:
    check(made.sum_of_rows())


def test_memory_that_is_one_byte_too_small() -> None:
    whole = made.sum_of_rows(ssram_bytes=384)
    check(whole, ssram_bytes=384)
    refused(whole, "needs 384 bytes of SSRAM, a die of this device has 383", ssram_bytes=383)
    refused(whole, "needs 4096 bytes of DDR, a die of this device has 4095", ddr_bytes=4095)


def test_ssram_that_the_commands_outgrow() -> None:
    """The buffer of the sum is one byte too long: whoever writes it and whoever reads it are named."""
    with pytest.raises(ArtifactError) as raised:
        check(made.sum_of_rows(ssram_bytes=383))
    assert str(raised.value).splitlines() == [
        "prefill of rank 0: command 2 (sum) writes SSRAM from byte 256 to 384, of which the program has 383 bytes; "
        "compile the artifact again",
        "prefill of rank 0: command 3 (logits) reads SSRAM from byte 256 to 384, of which the program has 383 bytes; "
        "compile the artifact again",
    ]


def with_tensor(of: str, **changes: Any) -> tuple[Any, ...]:
    return tuple(one.model_copy(update=changes) if one.name == of else one for one in made.TENSORS)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"rank": 1}, "rank 1 of 1 ranks"),
        ({"rank": -1}, "rank -1 of 1 ranks"),
        ({"registers": {"position": 0, "row": 4}}, "register position: its values stay below 0; 1 to 16777216 is"),
        ({"registers": {"position": 16, "row": 1 << 40}}, "register row: its values stay below 1099511627776"),
        ({"tensors": with_tensor("scratch", name="cache")}, "tensor cache is there 2 times"),
        ({"tensors": with_tensor("scratch", dtype="int7")}, "tensor scratch: dtype int7 is not one of int8, uint8"),
        (
            {"tensors": with_tensor("scratch", shape=(255,))},
            "tensor scratch: 1024 bytes, its shape [255] of float32 ta",
        ),
        ({"tensors": with_tensor("scratch", shape=(0,), size=0)}, "tensor scratch: shape [0] holds nothing"),
        ({"tensors": with_tensor("scratch", shape=(-1, -256))}, "tensor scratch: shape [-1, -256] holds nothing"),
        ({"tensors": with_tensor("scratch", offset=3076)}, "tensor scratch: lies from byte 3076 to 4100, the program"),
        ({"tensors": with_tensor("weight", offset=-4)}, "tensor weight: lies from byte -4 to 252"),
        ({"tensors": with_tensor("tokens", offset=1856)}, "tensors tokens and logits overlap at byte 1856 of DDR"),
        ({"tensors": with_tensor("weight", offset=3072)}, "tensor cache lies before byte 3328, where the parameters"),
        ({"tokens": 5}, "the inputs are [('tokens', 'int32', (4,))] instead of tokens, int32 [5]"),
        (
            {"tensors": with_tensor("logits", name="scores")},
            "the outputs are [('scores', 'float32', 1)] instead of log",
        ),
    ],
)
def test_faults_of_a_programs_head(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ArtifactError) as raised:
        check(made.sum_of_rows(**changes))
    first = str(raised.value).splitlines()[0]
    assert text in first
    assert first.endswith("; compile the artifact again")


LINE = (ssram(0, 128), "read")
OUT = (ssram(256, 128), "write")


def kernel(**changes: Any) -> dict[str, Any]:
    return {"kernels": {"add": made.ADD.model_copy(update=changes)}}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (kernel(work=((Work(intrinsic="mma_i8", sizes=(16, 16), count=1),),)), "mma_i8 has 2 sizes instead of 3"),
        (
            kernel(arguments=(KernelArgument(name="a", dtype="int4", elements=0),)),
            "buffer a has dtype int4, which is not one of int8, uint8, int32, float16, float32",
        ),
    ],
)
def test_faults_of_a_kernels_record(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ArtifactError, match=f"prefill of rank 0: kernel add: {text}"):
        check(made.sum_of_rows(**changes))


def gather(**changes: Any) -> Gather:
    fields: dict[str, Any] = {
        "index": ddr(made.INPUT.offset, 16),
        "table": ddr(made.TABLE.offset, 64),
        "entry": (Term(factor=64),),
        "first": 0,
        "entries": 8,
        "target": ssram(0, 256),
    }
    return Gather(**{**fields, **changes})


def exchange(kind: Any, source: Access, target: Access, dtype: Any = "float32") -> Collective:
    return Collective(kind=kind, dtype=dtype, source=source, target=target)


SINGLE: list[tuple[Command, str]] = [
    (load(ddr(0, 8), ssram(0, 8), waits=(0,)), "waits for command 0, which does not come before it"),
    (load(ddr(0, 8), ssram(0, 8), waits=(-1,)), "waits for command -1, which does not come before it"),
    (load(ddr(0, 8), ssram(1017, 8)), "writes SSRAM from byte 1017 to 1025, of which the program has 1024 bytes"),
    (load(ddr(0, 8), ssram(0, 4, 2, 1021)), "writes SSRAM from byte 0 to 1025, of which the program has 1024 bytes"),
    (
        load(ddr(0, 8), ssram(904, 8, at=moved("position", 8))),
        "writes SSRAM from byte 904 to 1032, of which the program has 1024 bytes",
    ),
    (
        load(ddr(0, 8), ssram(8, 8, at=moved("position", -1))),
        "writes SSRAM from byte -7 to 16, of which the program has 1024 bytes",
    ),
    (
        load(ddr(0, 8), ssram(8, 8, at=moved("offset", 1))),
        "writes at an address of the register offset, which the program has not",
    ),
    (load(ddr(0, 4, 2, 3), ssram(0, 8)), "reads rows of 4 bytes that begin every 3 bytes, so they overlap"),
    (load(ddr(1808, 4), ssram(0, 4)), "reads DDR from byte 1808 to 1812, which does not lie in one tensor"),
    (load(ddr(4095, 4), ssram(0, 4)), "reads DDR from byte 4095 to 4099, which does not lie in one tensor"),
    (load(ddr(252, 8), ssram(0, 8)), "reads DDR from byte 252 to 260, which does not lie in one tensor"),
    (
        load(ddr(made.CACHE.offset, 8, at=moved("position", 68)), ssram(0, 8)),
        "reads DDR from byte 768 to 1796, which does not lie in one tensor",
    ),
    (
        store(ssram(0, 8), ddr(300, 8)),
        "writes DDR from byte 300 to 308, which belongs to the parameter table",
    ),
    (
        store(ssram(0, 8), ddr(1792, 8)),
        "writes DDR from byte 1792 to 1800, which belongs to the input tokens",
    ),
    (load(ddr(0, 8), ssram(0, 9)), "reads 8 bytes and writes 9"),
    (load(ddr(0, 3, 3, 4), ssram(0, 8)), "reads 9 bytes and writes 8"),
    (
        Transfer(engine="wddma", source=ssram(0, 8), target=ssram(8, 8)),
        "copies from SSRAM to SSRAM, wddma does so from DDR to SSRAM only",
    ),
    (
        Transfer(engine="odma", source=ddr(0, 8), target=ssram(8, 8)),
        "copies from DDR to SSRAM, odma does so from SSRAM to DDR only",
    ),
    (
        Launch(engine="vector", kernel="none", arguments=()),
        "launches the kernel none, which the program has not",
    ),
    (
        launch(LINE, LINE, OUT).model_copy(update={"engine": "matrix"}),
        "launches add on the matrix engine, it is for the vector engine",
    ),
    (launch(LINE, OUT), "gives add 2 buffers instead of 3"),
    (launch(LINE, (ssram(0, 124), "read"), OUT), "gives add 124 bytes instead of 128 for its buffer b"),
    (launch(LINE, (ssram(0, 64, 2, 68), "read"), OUT), "gives add 132 bytes instead of 128 for its buffer b"),
    (launch(LINE, (ddr(0, 128), "read"), OUT), "gives add bytes of DDR, which kernels do not reach, for its buffer b"),
    (
        launch(LINE, (ssram(34, 128), "read"), OUT),
        "gives add an address that is no multiple of an element's 4 bytes for its buffer b",
    ),
    (
        launch(LINE, (ssram(0, 128, at=moved("row", 6)), "read"), OUT),
        "gives add an address that is no multiple of an element's 4 bytes for its buffer b",
    ),
    (launch(LINE, LINE, OUT).model_copy(update={"scalars": ()}), "gives add 0 scalars instead of 1"),
    (launch(LINE, LINE, OUT, n="column"), "gives add the register column, which the program has not"),
    (launch(LINE, LINE, OUT, n=1 << 31), "gives add 2147483648, which is no int32"),
    (gather(entries=9), "gathers from DDR, byte 256 to 832, which does not lie in one tensor"),
    (gather(entries=0), "gathers from a table of 0 entries; 1 to 16777216 is possible"),
    (gather(entry=(Term(factor=-64),)), "gathers from DDR, byte -192 to 320, which does not lie in one tensor"),
    (gather(entry=(Term(factor=-640),)), "gathers from DDR, byte -4224 to 320, which does not lie in one tensor"),
    (gather(table=ssram(0, 64)), "gathers from SSRAM, byte 0 to 512, which does not lie in one tensor"),
    (gather(table=ddr(256, 64, at=moved("row", 64))), "gathers from a table whose address depends on a register"),
    (gather(table=ddr(256, 8, 8, 4), entries=1), "gathers entries whose pieces of 8 bytes begin every 4 bytes"),
    (gather(index=ddr(1792, 15)), "takes 1 rows of 15 bytes for its index, which is one row of int32"),
    (gather(index=ddr(1792, 4, 2, 8)), "takes 2 rows of 4 bytes for its index, which is one row of int32"),
    (gather(target=ssram(0, 252)), "gathers 256 bytes and writes 252"),
    (exchange("all_reduce", ddr(0, 8), ssram(0, 8)), "exchanges DDR for SSRAM, it does so in SSRAM only"),
    (exchange("all_reduce", ssram(0, 8), ssram(8, 16)), "adds 8 bytes and writes 16"),
    (
        exchange("all_reduce", ssram(0, 6), ssram(8, 6)),
        "exchanges rows of 6 for rows of 6 bytes, which are not whole float32",
    ),
    (
        exchange("all_gather", ssram(0, 8, 2, 8), ssram(16, 8, 4, 8)),
        "gathers 2 rows of 8 bytes from 1 ranks and writes 4 rows of 8 bytes",
    ),
]


@pytest.mark.parametrize(("command", "text"), SINGLE, ids=[re.sub(r"\W+", " ", text)[:60] for _, text in SINGLE])
def test_faults_of_a_command(command: Command, text: str) -> None:
    labelled = command.model_copy(update={"label": "layers.0"})
    refused(program([labelled]), f"command 0 (layers.0) {text}; compile")


def test_only_the_first_faults_are_told() -> None:
    with pytest.raises(ArtifactError) as raised:
        check(program([load(ddr(0, 8), ssram(0, 9))] * 50))
    lines = str(raised.value).splitlines()
    assert len(lines) == 5
    assert [line.split(" reads")[0] for line in lines] == [f"prefill of rank 0: command {n}" for n in range(5)]


# Several programs.


def group(ranks: int) -> dict[int, Program]:
    line = ssram(0, 128)
    return {
        rank: program([load(ddr(0, 128), line), reduce(line, line, waits=(0,))], rank=rank, ranks=ranks)
        for rank in range(ranks)
    }


def test_a_whole_group_passes() -> None:
    for ranks in (1, 3):
        check_group(group(ranks))
        check_ranks(list(group(ranks).values()))


def test_missing_and_mixed_up_ranks() -> None:
    whole = group(4)
    del whole[2]
    with pytest.raises(ArtifactError, match=r"^prefill: rank 2 of 4 is missing; compile the artifact again$"):
        check_group(whole)
    with pytest.raises(ArtifactError, match="the program at the place of rank 0 is that of rank 1"):
        check_group({0: group(2)[1], 1: group(2)[0]})
    with pytest.raises(ArtifactError, match="there is no program of any rank"):
        check_group({})
    with pytest.raises(ArtifactError, match="there is no program of any rank"):
        check_ranks([])
    with pytest.raises(ArtifactError, match="ranks is 2 in rank 0 and 3 in rank 1"):
        check_group({0: group(2)[0], 1: group(3)[1]})
    with pytest.raises(ArtifactError, match="stage is 'prefill' in rank 0 and 'decode' in rank 1"):
        check_group({**group(2), 1: group(2)[1].model_copy(update={"stage": "decode"})})


def test_exchanges_that_differ() -> None:
    whole = group(2)
    line = ssram(0, 128)
    others = {
        "has no further exchange": (),
        "all_reduce of 64 bytes of float32": (reduce(ssram(0, 64), ssram(0, 64)),),
        "all_reduce of 128 bytes of float16": (reduce(line, line, dtype="float16"),),
        "all_gather of 128 bytes of float32": (exchange("all_gather", line, ssram(256, 256)),),
    }
    for text, commands in others.items():
        both = {**whole, 1: program(commands, rank=1, ranks=2)}
        wanted = f"rank 0 has command 1, all_reduce of 128 bytes of float32, where rank 1 .*{text}"
        with pytest.raises(ArtifactError, match=wanted):
            check_group(both)


def test_gathered_rows_must_agree() -> None:
    shapes = [(ssram(0, 8, 4, 8), ssram(256, 16, 4, 16)), (ssram(0, 16, 2, 16), ssram(256, 32, 2, 32))]
    programs = {
        rank: program([exchange("all_gather", *shape)], rank=rank, ranks=2) for rank, shape in enumerate(shapes)
    }
    with pytest.raises(ArtifactError, match="rank 0 has command 0, all_gather of 32 bytes"):
        check_group(programs)


def test_two_stages_of_a_rank() -> None:
    prefill = made.sum_of_rows()
    tokens = with_tensor("tokens", shape=(1,), size=4)
    decode = made.sum_of_rows(stage="decode", tokens=1, tensors=tokens)
    check_stages([prefill, decode])
    with pytest.raises(ArtifactError, match="rank 0: cache is not the same in prefill and decode; compile"):
        check_stages([prefill, made.sum_of_rows(stage="decode", tensors=with_tensor("cache", dtype="int32"))])
    with pytest.raises(ArtifactError, match="rank 0: context is 16 in prefill and 32 in decode"):
        check_stages([prefill, made.sum_of_rows(stage="decode", context=32)])


def test_a_register_that_moves_by_whole_rows_is_exact() -> None:
    """Panels of 16 positions: the highest offset is that of a position, not the sum of the highest terms."""
    at = Dynamic(register_name="position", terms=(Term(divide=16, factor=512), Term(modulo=16, factor=4)))
    cache = with_tensor("cache", shape=(225,), size=900)
    load_entry = load(ddr(made.CACHE.offset, 4, at=at), ssram(512, 4))
    registers = {"position": 18, "row": 4}  # positions 16 and 17 begin at byte 512 and 516
    for size in (520, 519):
        cache = with_tensor("cache", dtype="int8", shape=(size,), size=size)
        whole = made.sum_of_rows(registers=registers, tensors=cache)
        whole = whole.model_copy(update={"commands": (*whole.commands, load_entry)})
        if size == 520:
            check(whole)
        else:
            refused(whole, "command 4 reads DDR from byte 768 to 1288, which does not lie in one tensor")
