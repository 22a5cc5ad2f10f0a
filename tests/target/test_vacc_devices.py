"""The cards' files, and changes to their figures."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from vamc_py.errors import ArtifactError, UserError
from vamc_py.target.vacc import device as device_module
from vamc_py.target.vacc.device import STATEMENT, Device, figures, whole

CARDS = ("VA1", "VA1L", "VA10", "VA16")
FIXED = {
    "int8_ops": 100e12,
    "fp16_flops": 36e12,
    "ssram_bytes": 40_000_000,
    "ddr_bytes_s": 136e9,
    "clock_hz": 880e6,
    "cores": 8,
    "matrix_tile": 16,
}


def test_every_file_is_a_card_of_its_name() -> None:
    files = {path.stem for path in Path(device_module.__file__).parent.glob("*.yaml")}
    assert files == {name.lower() for name in Device.names()}
    assert [Device.named(name).name for name in Device.names()] == list(Device.names())


@pytest.mark.parametrize("name", CARDS)
def test_figures_of_a_die_are_the_fixed_ones(name: str) -> None:
    device = Device.named(name)
    assert {key: getattr(device, key) for key in FIXED} == FIXED
    assert not device.published("ddr_bytes_s")


@pytest.mark.parametrize(
    ("name", "dies", "memory"), [("VA1", 2, 16), ("VA1L", 2, 32), ("VA10", 4, 16), ("VA16", 4, 32)]
)
def test_dies_and_their_memory(name: str, dies: int, memory: int) -> None:
    device = Device.named(name)
    assert (device.dies, device.ddr_bytes) == (dies, memory << 30)
    assert device.published("dies")
    assert device.published("ddr_bytes") == (name != "VA10")


@pytest.mark.parametrize("name", Device.names())
def test_every_figure_says_where_it_is_from(name: str) -> None:
    facts = Device.named(name).facts()
    assert tuple(fact.key for fact in facts) == figures()
    for fact in facts:
        assert re.fullmatch(r"[A-Z0-9].+\.", fact.source), fact
        assert isinstance(fact.value, int) == whole(fact.key)


def test_the_test_card_is_marked_as_made_up() -> None:
    device = Device.named("tiny")
    assert (device.dies, device.cores, device.ssram_bytes) == (8, 2, 256 * 1024)
    assert "no such card exists" in device.description
    assert {(fact.status, fact.source) for fact in device.facts()} == {("assumed", "Made up for tests.")}


def test_no_engine_is_faster_than_ddr() -> None:
    for name in Device.names():
        device = Device.named(name)
        assert list(device.dma_bytes_s) == ["idma", "odma", "wddma", "cdma"]
        assert max(device.dma_bytes_s.values()) <= device.ddr_bytes_s


def test_names_in_any_case() -> None:
    assert Device.named("va16") is Device.named("VA16")
    assert Device.named("TINY").name == "tiny"


@pytest.mark.parametrize(("name", "hint"), [("VA12", "; did you mean VA1"), ("h200", "tiny$"), ("", "tiny$")])
def test_an_unknown_card_is_one_sentence(name: str, hint: str) -> None:
    known = "is no card of vacc that this version knows; known are VA1, VA1L, VA10, VA16, tiny"
    with pytest.raises(UserError, match=f"^'{name}' {known}") as caught:
        Device.named(name)
    assert re.search(hint, str(caught.value))


def test_a_change_is_an_assumption_that_says_what_it_replaced() -> None:
    device = Device.named("VA1", {"clock_hz": 1e9, "cores": 4})
    assert (device.clock_hz, device.cores) == (1e9, 4)
    assert device.origins["clock_hz"].source == "Changed by backend.device; the file of VA1 has 8.8e+08 (published)."
    assert not device.published("clock_hz")
    assert Device.named("VA1").clock_hz == 880e6
    assert device.origins["dies"] == Device.named("VA1").origins["dies"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("ddr_bytes_sec", 1, r"'ddr_bytes_sec' is no figure of a vacc device; did you mean ddr_bytes_s\?"),
        ("price", 1, "'price' is no figure of a vacc device; known are dies, cores,"),
        ("name", 1, "'name' is no figure"),
        ("cores", 0, "cores must be a whole number above 0, not 0"),
        ("cores", 1.5, r"cores must be a whole number above 0, not 1\.5"),
        ("cores", True, "cores must be a whole number above 0, not True"),
        ("clock_hz", -1.0, r"clock_hz must be a number above 0, not -1\.0"),
        ("clock_hz", float("inf"), "clock_hz must be a number above 0, not inf"),
        ("matrix_tile", 32, "matrix_tile is 16: the kernels and the layout of weights are written for it"),
    ],
)
def test_a_change_that_cannot_be_is_refused(key: str, value: float, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        Device.named("VA16", {key: value})


def test_the_file_of_an_artifact_reads_back(tmp_path: Path) -> None:
    device = Device.named("VA16", {"dma_latency_s": 1e-6, "clock_hz": 10**9})
    path = tmp_path / "device.json"
    path.write_text(device.json_text(), encoding="utf-8")
    assert Device.read(path) == device
    assert json.loads(device.json_text())["statement"] == STATEMENT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cores": None}, "no device of this version"),
        ({"cores": {"value": "8", "status": "assumed", "source": "x"}}, "no device of this version: cores: "),
        (
            {"cores": {"value": 8, "status": "known", "source": "x"}},
            r"no device of this version: origins\.cores\.status",
        ),
        ({"colour": {"value": 8, "status": "assumed", "source": "x"}}, "no device of this version: colour"),
        ({"cores": {"value": 8, "status": "assumed"}}, "no device of this version"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "device.json"
    path.write_text(json.dumps({**json.loads(Device.named("VA1").json_text()), **change}))
    with pytest.raises(ArtifactError, match=f"^{re.escape(str(path))}: {message}"):
        Device.read(path)


def test_an_absent_figure_and_an_absent_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "device.json"
    with pytest.raises(ArtifactError, match="there is no such file; an artifact of vacc has its device there"):
        Device.read(path)
    document = json.loads(Device.named("VA1").json_text())
    del document["cores"]
    path.write_text(json.dumps(document))
    with pytest.raises(ArtifactError, match="cores: Field required; compile again"):
        Device.read(path)
    for text in ("", "[]", '{"name": []}', "3"):
        path.write_text(text)
        with pytest.raises(ArtifactError, match="no device of this version"):
            Device.read(path)
