"""mod.json: what is written is read back, with the same bytes each time, and what is no program is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import runstreams as made

from vamc_py.errors import ArtifactError
from vamc_py.runstream.file import parse, read_program, serialise, write_program
from vamc_py.runstream.program import Access, Collective, Command, Dynamic, Gather, Term

terms = st.builds(
    Term, divide=st.integers(1, 1 << 20), modulo=st.none() | st.integers(1, 99), factor=st.integers(-99, 99)
)
dynamics = st.builds(Dynamic, register_name=st.text(), terms=st.lists(terms, max_size=2).map(tuple))
accesses = st.builds(
    Access,
    memory=st.sampled_from(["ddr", "ssram"]),
    offset=st.integers(0, 1 << 40),
    size=st.integers(1, 1 << 40),
    rows=st.integers(1, 9),
    stride=st.integers(0, 99),
    at=st.none() | dynamics,
)
common: dict[str, Any] = {"label": st.text(max_size=5), "waits": st.lists(st.integers(0, 9), max_size=3).map(tuple)}
commands: st.SearchStrategy[Command] = st.one_of(
    st.builds(made.load, accesses, accesses, engine=st.sampled_from(["idma", "odma", "wddma", "cdma"]), **common),
    st.builds(
        made.launch,
        st.tuples(accesses, st.sampled_from(["read", "write", "update"])),
        n=st.integers(-5, 5) | st.text(),
        **common,
    ),
    st.builds(
        Collective,
        kind=st.sampled_from(["all_reduce", "all_gather"]),
        dtype=st.just("float16"),
        source=accesses,
        target=accesses,
        **common,
    ),
    st.builds(
        Gather,
        index=accesses,
        table=accesses,
        entry=st.lists(terms, max_size=2).map(tuple),
        first=st.integers(),
        entries=st.integers(),
        target=accesses,
        **common,
    ),
)


@settings(deadline=None)  # the first program builds the validators
@given(content=st.lists(commands, max_size=5))
def test_what_is_written_is_read_back(content: list[Command]) -> None:
    program = made.program(content)
    data = serialise(program)
    back = parse(data, "mod.json")
    assert back == program
    assert serialise(back) == data
    assert len(data.splitlines()) == max(len(content), 1) + 2  # a line a command: for people who compare files


def test_defaults_take_no_room() -> None:
    line = serialise(made.program([made.load(made.ddr(0, 8), made.ssram(0, 8))])).splitlines()[1]
    assert json.loads(line) == {
        "kind": "transfer",
        "engine": "idma",
        "source": {"memory": "ddr", "offset": 0, "size": 8},
        "target": {"memory": "ssram", "offset": 0, "size": 8},
    }


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mod.json"
    write_program(path, made.sum_of_rows())
    assert read_program(path) == made.sum_of_rows()
    assert read_program(tmp_path) == made.sum_of_rows()
    path.unlink()
    with pytest.raises(ArtifactError, match=r"mod\.json: there is no such file; name a program or its folder"):
        read_program(path)


@given(cut=st.integers(0, len(serialise(made.sum_of_rows())) - 3))
def test_a_truncated_file_is_no_json(cut: int) -> None:
    with pytest.raises(ArtifactError, match=r"^mod\.json: not readable as JSON \(.*\); copy or compile the artifact"):
        parse(serialise(made.sum_of_rows())[:cut], "mod.json")


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    content = json.loads(serialise(made.sum_of_rows()))
    change(content)
    return json.dumps(content).encode()


def also(place: tuple[str | int, ...], value: object) -> Callable[[dict[str, Any]], None]:
    """Puts a value into the content at the place."""

    def change(content: Any) -> None:
        for key in place[:-1]:
            content = content[key]
        content[place[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            also(("format",), 2),
            "runstream format 2, this vamc-py reads format 1; compile the artifact with this version",
        ),
        (lambda content: (also(("format",), 9)(content), content.pop("commands")), "runstream format 9, this vamc-py"),
        (also(("new",), 1), "new: Extra inputs are not permitted; copy or compile the artifact again"),
        (also(("commands", 0, "extra"), 1), "commands.0.transfer.extra: Extra inputs are not permitted"),
        (
            also(("commands", 1, "source", "size"), "8"),
            "commands.1.transfer.source.size: Input should be a valid integer",
        ),
        (
            also(("commands", 1, "source", "size"), 0),
            "commands.1.transfer.source.size: Input should be greater than or",
        ),
        (
            also(("commands", 1, "source", "size"), 8.5),
            "commands.1.transfer.source.size: Input should be a valid integer",
        ),
        (also(("commands", 1, "source", "offset"), True), "commands.1.transfer.source.offset: Input should be a valid"),
        (also(("commands", 2, "kind"), "jump"), "commands.2: Input tag 'jump' found using 'kind' does not match"),
        (also(("commands", 2, "engine"), "idma"), "commands.2.launch.engine: Input should be 'matrix' or 'vector'"),
        (lambda content: content.pop("tensors"), "tensors: Field required"),
        (lambda content: content.pop("format"), "runstream format None, this vamc-py reads format 1"),
    ],
)
def test_what_is_no_program_is_refused(change: Callable[[dict[str, Any]], object], text: str) -> None:
    with pytest.raises(ArtifactError, match=re.escape(f"mod.json: {text}")) as raised:
        parse(changed(change), "mod.json")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("data", [b"[]", b"3", b"null", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_object_is_refused(data: bytes) -> None:
    with pytest.raises(ArtifactError, match=r"^mod\.json: .*; copy or compile the artifact again$"):
        parse(data, "mod.json")
