"""Programs as people read them, and where two of them differ."""

from __future__ import annotations

from support.timed_programs import all_reduce, gather, launch, load, matrix_work, mma, program, store, vector_work

from vamc_py.runstream.comparison import differences
from vamc_py.runstream.listing import command_line, head, megabytes, rows
from vamc_py.runstream.program import Access, Command, Dynamic, Program, Term

KERNELS = {"mm": matrix_work(mma(16, 16, 16)), "norm": vector_work(16)}


def layer(number: int, weight: int = 640, at: int = 0) -> list[Command]:
    """The commands of a layer, the first of them with this number in the program."""
    label = f"layers.{number}.mlp.down_proj"
    return [
        load(weight, label=label),
        launch("mm", (at,), label=label, offset=64 * number),
        launch("mm", (at + 1,), label=label),
        store(64, (at + 2,), label=label),
        all_reduce(32, (at + 2,), label=label),
    ]


def layers(count: int, odd: int | None = None) -> Program:
    commands = [command for n in range(count) for command in layer(n, 700 if n == odd else 640, 1 + 5 * n)]
    return program(gather(4, 32), *commands, kernels=KERNELS)


def test_alike_layers_are_one_row() -> None:
    found = rows(layers(4))
    assert [(row.label, len(row.labels), row.first) for row in found] == [
        ("embed_tokens", 1, 0),
        ("layers.*.mlp.down_proj", 4, 1),
    ]
    total = found[1].totals
    assert (total.commands, total.read, total.written, total.exchanged) == (5, 640, 64, 32)
    assert total.kernels == ("2 x mm",)
    assert found[0].totals.read == 128


def test_a_layer_that_differs_has_its_own_row() -> None:
    assert [(row.label, row.labels) for row in rows(layers(3, odd=1))][1:] == [
        ("layers.*.mlp.down_proj", ("layers.0.mlp.down_proj", "layers.2.mlp.down_proj")),
        ("layers.1.mlp.down_proj", ("layers.1.mlp.down_proj",)),
    ]


def test_the_head_says_that_it_is_a_model() -> None:
    found = dict(head(layers(1)))
    assert found["device"] == "tiny, a model of vamc-py's own"
    assert found["rank"] == "0 of 1"
    assert found["DDR"] == "0.07 MB: 1 of role parameter with 4096 B"
    assert found["commands"] == "6: cdma 1, wddma 1, matrix 2, odma 1, vccl 1"
    assert found["registers"] == "position below 64, row below 16"


def test_command_lines() -> None:
    assert command_line(load(16, rows=3)) == "wddma ddr[0x0, 3 rows of 16 B every 1024 B] -> ssram[0x0, 48 B]"
    assert command_line(load(16), addresses=False) == "wddma ddr[16 B] -> ssram[16 B]"
    assert command_line(launch("mm", offset=16)) == "matrix mm(update ssram[0x10, 64 B])"
    with_scalars = launch("mm").model_copy(update={"scalars": (3, "position")})
    assert command_line(with_scalars) == "matrix mm(update ssram[0x0, 64 B]; 3, position)"
    assert command_line(all_reduce(8)) == "vccl all_reduce float32 ssram[0x0, 8 B] -> ssram[0x0, 8 B]"
    assert command_line(gather(2, 32)) == (
        "cdma gather ddr[0x0, 32 B] + i * 32 for ssram[0x0, 8 B] in [0, 100) -> ssram[0x0, 64 B]"
    )
    terms = (Term(divide=16, factor=512), Term(modulo=16, factor=1))
    moving = Access(memory="ddr", offset=64, size=2, at=Dynamic(register_name="position", terms=terms))
    line = command_line(store(2).model_copy(update={"target": moving}))
    assert line == "odma ssram[0x0, 2 B] -> ddr[0x40 + position: i // 16 * 512 + i % 16, 2 B]"


def test_sizes() -> None:
    assert [megabytes(size) for size in (0, 9999, 10_000, 1.5e9)] == ["0 B", "9999 B", "0.01 MB", "1,500.00 MB"]


def test_the_same_programs_do_not_differ() -> None:
    assert differences(layers(3), layers(3)) == []


def test_a_difference_in_all_layers_is_shown_once() -> None:
    other = program(gather(4, 32), *(c for n in range(3) for c in layer(n, 800, 1 + 5 * n)), kernels=KERNELS)
    assert differences(layers(3), other) == [
        "@@ layers.*.mlp.down_proj (3: layers.0.mlp.down_proj to layers.2.mlp.down_proj)",
        "- wddma ddr[640 B] -> ssram[640 B]",
        "+ wddma ddr[800 B] -> ssram[800 B]",
        "  matrix mm(update ssram[64 B]), after wddma",
    ]


def test_a_command_more_changes_no_other() -> None:
    """All numbers behind it move."""
    first, second = layers(2), layers(2)
    extra = store(64, label="logits")
    moved = [
        command.model_copy(update={"waits": tuple(number + 1 for number in command.waits)})
        for command in second.commands
    ]
    second = second.model_copy(update={"commands": (extra, *moved)})
    assert differences(first, second) == ["@@ logits", "+ odma ssram[64 B] -> ddr[64 B]"]
    assert differences(second, first) == ["@@ logits", "- odma ssram[64 B] -> ddr[64 B]"]


def test_a_missing_wait_is_a_difference() -> None:
    first = layers(1)
    changed = list(first.commands)
    changed[2] = changed[2].model_copy(update={"waits": ()})
    lines = differences(first, first.model_copy(update={"commands": tuple(changed)}))
    assert "- matrix mm(update ssram[64 B]), after wddma" in lines
    assert "+ matrix mm(update ssram[64 B])" in lines


def test_heads_tensors_and_kernels() -> None:
    first = layers(1)
    tensor = first.tensors[0].model_copy(update={"dtype": "float16"})
    kernels = {"mm": matrix_work(mma(16, 16, 32)), "norm": KERNELS["norm"], "new": vector_work(1)}
    second = first.model_copy(update={"rank": 1, "ranks": 2, "tensors": (tensor,), "kernels": kernels})
    lines = differences(first, second)
    assert lines[:9] == [
        *("@@ rank", "- 0", "+ 1", "@@ ranks", "- 1", "+ 2"),
        *("@@ tensor lm_head.weight", "- parameter int8 [64, 64]", "+ parameter float16 [64, 64]"),
    ]
    assert lines[9:11] == ["+ kernel new", "@@ kernel mm"]
    assert [line[:9] for line in lines[11:]] == ["- work ((", "+ work (("]


def test_moved_commands_are_counted() -> None:
    first = layers(2)
    moved = list(first.commands)
    moved[2] = launch("mm", (1,), label=moved[2].label, offset=512)
    lines = differences(first, first.model_copy(update={"commands": tuple(moved)}))
    assert lines == ["@@ addresses or the numbers of waits of 1 commands, the first one 2"]
    one, other = load(64, label="a"), load(64, "idma", label="b")
    lines = differences(program(one, other), program(other, one))
    assert lines == ["@@ order, from command 0", "- wddma a", "+ idma b"]
    tensor = first.tensors[0].model_copy(update={"offset": 64})
    assert differences(first, first.model_copy(update={"tensors": (tensor,)})) == ["@@ DDR addresses of tensors"]
