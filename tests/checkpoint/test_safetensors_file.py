"""Headers of safetensors files: what is read, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.checkpoints import safetensors_header

from vamc_py.checkpoint.safetensors_file import SafetensorsFile
from vamc_py.errors import CheckpointError

GOOD = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


@pytest.mark.parametrize(
    ("header", "data", "match"),
    [
        ({"w": GOOD}, 23, r"w ends at byte 24 of the data, which has 23: the file is truncated"),
        ({"w": GOOD | {"data_offsets": [0, 23]}}, 24, r"w has 23 bytes of data; F32 \[2, 3\] needs 24"),
        ({"w": GOOD | {"data_offsets": [24, 0]}}, 24, r"w has -24 bytes of data"),
        ({"w": GOOD | {"data_offsets": [0]}}, 24, r"the header's entry for w is damaged"),
        ({"w": GOOD | {"shape": [2, -3]}}, 24, r"the header's entry for w is damaged"),
        ({"w": GOOD | {"shape": [2, True]}}, 24, r"the header's entry for w is damaged"),
        ({"w": GOOD | {"shape": [2, 1.5]}}, 24, r"the header's entry for w is damaged"),
        ({"w": "F32"}, 24, r"the header's entry for w is damaged"),
        ({"w": GOOD | {"dtype": "Q7"}}, 24, r"w has the dtype Q7; what can be read: F64"),
        ({"w": GOOD, "v": GOOD | {"data_offsets": [4, 28]}}, 28, r"v overlaps w"),
        ([1, 2], 0, r"the header is damaged: it is no JSON object"),
    ],
)
def test_a_bad_header_names_the_tensor(tmp_path: Path, header: Any, data: int, match: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_header(header) + bytes(data))
    with pytest.raises(CheckpointError, match=match) as error:
        SafetensorsFile(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "the header should have 0 bytes and the file has 0"),
        (b"\x05\0\0", "the file has 3"),
        ((1000).to_bytes(8, "little") + b"{}", "the header should have 1000 bytes and the file has 10"),
        ((2**63).to_bytes(8, "little") + b"{}", "the header should have 9223372036854775808 bytes"),
        ((2).to_bytes(8, "little") + b"{,", "the header is damaged"),
        ((2).to_bytes(8, "little") + b"\xff\xfe", "the header is damaged"),
    ],
)
def test_a_file_that_is_something_else(tmp_path: Path, content: bytes, match: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=match):
        SafetensorsFile(path)


def test_a_name_that_comes_twice(tmp_path: Path) -> None:
    entry = json.dumps(GOOD)
    text = f'{{"w": {entry}, "w": {entry}}}'.encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(24))
    with pytest.raises(CheckpointError, match="the tensor w is there twice"):
        SafetensorsFile(path)
